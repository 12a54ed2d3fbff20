"""Relays as processes, several at once: killed, paused for longer than their lease, told to stop."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynomaly_tasks.embedded.redis_server import RedisServer
from support.kafka import KafkaNode
from support.pausing import pause_between_writes
from support.processes import Programs
from support.relays import LEASE_S, Relays
from support.waiting import wait_until


@pytest.fixture(params=["sqlite-redis_streams", "postgresql-kafka"])
def relays(
    request: pytest.FixtureRequest, tmp_path: Path, programs: Programs, own_redis: RedisServer
) -> Iterator[Relays]:
    """On each database and each log."""
    env = {"PYNOMALY_REDIS__URL": own_redis.url}
    if request.param == "postgresql-kafka":
        node: KafkaNode = request.getfixturevalue("own_kafka")
        node.create_topic("job_events", 2)
        env |= {
            "PYNOMALY_STORE__URL": request.getfixturevalue("postgres_url"),
            "PYNOMALY_EVENTS__BACKEND": "kafka",
            "PYNOMALY_KAFKA__BOOTSTRAP_SERVERS": node.bootstrap,
        }
    relays = Relays(tmp_path, programs, env)
    yield relays
    programs.close()
    relays.close()


def _torture(relays: Relays, n_rounds: int, seed: int) -> None:
    """In turns the relay that publishes is killed, or paused beyond its lease and resumed."""
    rng = random.Random(seed)
    for _ in range(3):
        relays.start()
    n_killed = n_paused = 0
    with relays.writing() as commits:
        for number in range(n_rounds):
            leader = relays.wait_for_leader()
            n_commits = len(commits)
            pause_s = rng.uniform(0.0, 0.5)
            until_s = time.monotonic() + pause_s
            wait_until(
                lambda n=n_commits, at_s=until_s: len(commits) > n and time.monotonic() > at_s,
                20.0,
                "events in between",
            )
            if number % 2:
                pause_between_writes(leader, relays.platform.settings.store_url())
                other = wait_until(
                    lambda paused=leader: (now := relays.leader()) is not paused and now,
                    LEASE_S + 40,
                    "another relay to lead",
                )
                assert other is not leader
                leader.resume()
                n_paused += 1
            else:
                relays.end(leader)
                relays.start()
                n_killed += 1
    relays.wait_until_drained(120)
    n_events = sum(map(len, relays.written.values()))
    n_repeated = relays.check_published()
    print(
        f"\n{n_events} events, {n_killed} relays killed, {n_paused} paused beyond their lease, "
        f"{n_repeated} repetitions; seed {seed}"
    )
    assert (n_killed, n_paused) == (n_rounds - n_rounds // 2, n_rounds // 2)


def test_relays_that_are_killed_and_paused_lose_nothing_and_keep_every_key_in_order(relays: Relays) -> None:
    _torture(relays, n_rounds=4, seed=20261122)


@pytest.mark.slow
def test_relays_that_are_killed_and_paused_lose_nothing_and_keep_every_key_in_order_for_long(
    relays: Relays,
) -> None:
    _torture(relays, n_rounds=60, seed=4)


def test_standby_takes_over_at_once_from_a_relay_that_is_told_to_stop(relays: Relays) -> None:
    slow = {"PYNOMALY_OUTBOX__LEASE_S": "60", "PYNOMALY_OUTBOX__POLL_S": "30"}
    relays.start(**slow)
    first = relays.wait_for_leader()
    second = relays.start(**slow)
    wait_until(lambda: _stands_by(second), 30.0, "the second relay to stand by")
    with relays.writing():
        wait_until(lambda: relays.written, 20.0, "events")

        told_at_s = time.monotonic()
        assert first.stop(timeout_s=20) == 0
        wait_until(lambda: relays.leader() is second, 20.0, "the other one to lead")
        took_s = time.monotonic() - told_at_s

    relays.wait_until_drained()
    assert relays.check_published() == 0
    assert took_s < 10, "a lease lasts 60 s, and a poll 30"
    print(f"\ntaken over {took_s:.2f} s after SIGTERM")


def _stands_by(program: object) -> bool:
    # It has connected to the Redis that it waits at for the lease to be given up.
    import psutil

    return len(psutil.Process(program.pid).net_connections("tcp")) >= 1  # type: ignore[attr-defined]


def test_relay_ends_with_the_batch_in_hand_marked(relays: Relays) -> None:
    relays.write(*(f"key-{number}" for number in range(2_000)))
    program = relays.start()
    wait_until(lambda: relays.lag().n_unsent < 2_000, 30.0, "the first events to go")

    program.signal_leader(signal.SIGTERM)

    assert program.wait(20)
    n_published = sum(map(len, relays.published().values()))
    assert n_published == 2_000 - relays.lag().n_unsent
    assert program.returncode == 0
