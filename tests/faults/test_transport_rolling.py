"""A fleet that changes from kombu's transport to ours and back while it works."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator

import pytest

from pynomaly_tasks.embedded.redis_server import RedisServer
from support.processes import Programs
from support.transport import OURS, PLAIN, Fleet
from support.transport_log import ran_at_once, read_runs
from support.waiting import wait_until

#: Tasks that end between two changes.
STEP = 10


@pytest.fixture
def fleet(own_redis: RedisServer, programs: Programs) -> Iterator[Fleet]:
    fleet = Fleet(own_redis, programs, lease_s=8.0)
    yield fleet
    fleet.close()


def test_rolling_from_plain_to_ours_and_back_under_load_loses_nothing(fleet: Fleet) -> None:
    roll(fleet, ("prefork",), n_rounds=1)


@pytest.mark.slow
def test_rolling_to_and_fro_five_times_loses_nothing(fleet: Fleet) -> None:
    roll(fleet, ("prefork", "threads"), n_rounds=5)


def roll(fleet: Fleet, pools: tuple[str, ...], *, n_rounds: int) -> None:
    """A worker of each pool; each is replaced in turn, first by one of ours, then by a plain one.

    Producers of both kinds publish all the while, and every change finds tasks running.
    """
    rng = random.Random(11)
    workers = {pool: fleet.worker(PLAIN, pool=pool) for pool in pools}
    n_published = 0
    with fleet.publisher(PLAIN) as plain, fleet.publisher(OURS) as ours:

        def work_on(until_ended: int) -> bool:
            nonlocal n_published
            for _ in range(12 - fleet.n_waiting()):
                lasts_s = rng.choice([0.01, 0.05, 0.3])
                (plain if n_published % 2 else ours)(n_published, lasts_s=lasts_s)
                n_published += 1
            return fleet.effects.hlen("ends") >= until_ended

        for transport in (OURS, PLAIN) * n_rounds:
            for pool in pools:
                ended = fleet.effects.hlen("ends")
                wait_until(lambda: work_on(ended + STEP), 60, "the fleet to work on")  # noqa: B023
                old, workers[pool] = workers[pool], fleet.worker(transport, pool=pool)
                old.signal_leader(signal.SIGTERM)
                wait_until(lambda: work_on(0) and not old.is_running(), 60, "the old one to end")  # noqa: B023
    wait_until(fleet.is_empty, 60, "an empty broker")

    runs = read_runs(fleet.effects)
    print(
        f"\n{n_published} tasks, {2 * len(pools) * n_rounds} workers replaced, {sum(map(len, runs.values()))} runs"
    )
    assert set(fleet.ended()) == set(range(n_published))
    assert [number for number, of_one in runs.items() if ran_at_once(of_one)] == []
    assert {number: n for number, n in fleet.ended().items() if n > 1} == {}
    assert all(worker.is_running() for worker in workers.values())
