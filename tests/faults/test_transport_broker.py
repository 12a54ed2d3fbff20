"""A broker whose connections break and whose answers are lost; one that is full; clocks that are wrong."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import libfaketime
import pytest
import redis
from kombu.exceptions import OperationalError

from support.tcp_proxy import TcpProxy
from support.transport import OUR_CONSUMER, OURS, PLAIN, Fleet
from support.transport_log import Run, ran_at_once, read_runs
from support.waiting import wait_until


def through(proxy: TcpProxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}/1"


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.slow)])
def test_running_task_is_not_started_again_when_its_worker_loses_the_connection(
    fleet: Fleet, tcp_proxy: Callable[[int], TcpProxy], pool: str
) -> None:
    proxy = tcp_proxy(fleet.server.port)
    fleet.worker(pool=pool, slots=1, broker_url=through(proxy))
    fleet.submit(1, gate="gate")
    fleet.wait_for_start(1)
    n_connections = proxy.n_connections
    fleet.worker()

    proxy.reset()
    wait_until(lambda: proxy.n_connections > n_connections + 2, 20, "the worker to be back")
    waited_from = time.monotonic()
    wait_until(lambda: time.monotonic() - waited_from > 2 * 2.0, 20, "two leases")
    n_started = fleet.started()[1]
    fleet.effects.rpush("gate", 1)
    fleet.wait_for_ends(1)
    wait_until(lambda: fleet.n_unacked() == 0, 5, "the task to be acknowledged by its tag")

    assert n_started == 1
    assert fleet.ended() == {1: 1}


def test_what_a_worker_had_not_started_comes_back_after_a_lost_connection(
    fleet: Fleet, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(fleet.server.port)
    fleet.worker(slots=1, broker_url=through(proxy))
    fleet.submit(*range(1, 9), gate="gate")
    fleet.wait_for_start(1)
    wait_until(lambda: fleet.n_unacked() == 4, 5, "the worker to take its prefetch")

    proxy.reset()
    fleet.effects.rpush("gate", *range(8))
    fleet.wait_for_ends(8)
    wait_until(lambda: fleet.n_unacked() == 0, 20, "all to be settled")

    assert set(fleet.started().values()) == {1}


def test_nothing_is_lost_or_doubled_while_connections_are_reset(
    fleet: Fleet, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    expect_once_under_resets(fleet, tcp_proxy(fleet.server.port), ["threads"], n_tasks=300)


@pytest.mark.slow
def test_nothing_is_lost_or_doubled_in_30_resets_of_every_pool(
    fleet: Fleet, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    expect_once_under_resets(
        fleet, tcp_proxy(fleet.server.port), ["prefork", "threads", "solo"], n_tasks=4_000, n_resets=30
    )


def expect_once_under_resets(
    fleet: Fleet, proxy: TcpProxy, pools: list[str], *, n_tasks: int, n_resets: int = 3
) -> None:
    """All connections of workers are reset every 2 s while they have something to do."""
    workers = [
        fleet.worker(pool=pool, slots=4, broker_url=through(proxy), env=OUR_CONSUMER) for pool in pools
    ]
    fleet.submit(*range(n_tasks), lasts_s=0.05)

    for _ in range(n_resets):
        n_ended, until = fleet.effects.hlen("ends"), time.monotonic() + 2.0
        wait_until(
            lambda than=n_ended, until=until: (
                fleet.effects.hlen("ends") > min(than, n_tasks - 1) and time.monotonic() > until
            ),
            60,
            f"more than {n_ended} tasks to end",
        )
        proxy.reset()
    fleet.wait_for_ends(n_tasks, timeout_s=120)
    wait_until(fleet.is_empty, 20, "all to be settled")

    assert all(worker.is_running() for worker in workers)
    assert fleet.ended() == dict.fromkeys(range(n_tasks), 1)
    assert set(fleet.started().values()) == {1}


def test_lost_answer_to_a_publish_does_not_double_it(
    fleet: Fleet, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(fleet.server.port)
    fleet.broker_url = through(proxy)
    n_failures = []

    def let_through(error: Exception, interval: float) -> None:
        n_failures.append(error)
        proxy.cut_after_bytes = None

    with fleet.connection() as connection, connection.Producer() as producer:
        producer.publish("first", routing_key="celery")
        for _ in range(10):
            proxy.cut_after_bytes = 1
            producer.publish(
                "again", routing_key="celery", retry=True,
                retry_policy={"max_retries": 5, "interval_start": 0, "errback": let_through},
            )  # fmt: skip
    fleet.broker = redis.Redis(port=fleet.server.port, db=1)

    assert len(n_failures) == 10
    assert fleet.n_waiting() == 11


def test_lost_answers_to_a_worker_neither_lose_nor_repeat_a_task(
    fleet: Fleet, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(fleet.server.port)
    worker = fleet.worker(
        pool="threads", slots=2, broker_url=through(proxy), lease_s=LONG_LEASE_S, env=OUR_CONSUMER
    )
    rng = random.Random(7)

    for nth in range(5):
        # The server does what it is asked, and the answer breaks off somewhere: to taking messages, to
        # acknowledging, to renewing.
        proxy.cut_after_bytes = rng.choice([1, 50, 400, 2_000])
        n_connections = proxy.n_connections
        fleet.submit(*range(20 * nth, 20 * nth + 20), lasts_s=0.005)
        wait_until(lambda than=n_connections: proxy.n_connections > than, 20, "a connection to break")
        proxy.cut_after_bytes = None
        fleet.wait_for_ends(20 * nth + 20)
    wait_until(fleet.is_empty, 20, "all to be settled")

    assert worker.is_running()
    assert {number: count for number, count in fleet.started().items() if count != 1} == {}


def test_lost_answer_to_an_acknowledgement_settles_nothing_else(
    fleet: Fleet, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(fleet.server.port)
    fleet.submit(*range(10))
    fleet.broker_url = through(proxy)

    with fleet.connection() as connection:
        messages = [connection.default_channel.basic_get("celery") for _ in range(6)]
        proxy.cut_after_bytes = 1
        n_connections = proxy.n_connections
        for message in messages[:3]:
            message.ack()
        wait_until(lambda: proxy.n_connections > n_connections, 10, "another try to acknowledge")
        proxy.cut_after_bytes = None
        wait_until(lambda: fleet.n_unacked() == 3, 10, "three to be acknowledged")
        connection.default_channel.ledger.flush()

        assert fleet.n_unacked() == 3
        assert fleet.n_waiting() == 4
        for message in messages[3:]:
            message.ack()


def test_full_redis_refuses_to_publish_and_is_emptied_by_its_workers(fleet: Fleet) -> None:
    fleet.submit(*range(1, 50))
    used = int(fleet.broker.info("memory")["used_memory"])
    fleet.broker.config_set("maxmemory", used - 100_000)

    with pytest.raises(OperationalError, match="maxmemory"):
        fleet.submit(99)
    with fleet.connection() as connection:
        messages = [connection.default_channel.basic_get("celery") for _ in range(49)]
        for message in messages:
            message.ack()
    wait_until(lambda: fleet.n_unacked() == 0, 5, "all to be settled")
    fleet.broker.config_set("maxmemory", 0)

    assert fleet.n_waiting() == 0
    assert len({message.headers["id"] for message in messages}) == 49


def test_workers_with_wrong_clocks_run_nothing_twice(fleet: Fleet) -> None:
    runs = run_beside_wrong_clocks(fleet, OURS)

    assert {len(of_one) for of_one in runs.values()} == {1}


@pytest.mark.slow
def test_kombu_runs_tasks_twice_beside_wrong_clocks(fleet: Fleet) -> None:
    """The control."""
    runs = run_beside_wrong_clocks(fleet, PLAIN)

    assert any(ran_at_once(of_one) for of_one in runs.values())


#: Where the lease is not what is tested: a busy machine lets a process stand still for seconds.
LONG_LEASE_S = 8.0


def run_beside_wrong_clocks(fleet: Fleet, transport: str) -> Mapping[int, list[Run]]:
    """Three workers, two with clocks that are two hours off; each runs some of nine tasks."""
    prefetch = {"TRANSPORT_PREFETCH": "1"}
    fleet.worker(transport, env=prefetch, lease_s=LONG_LEASE_S)
    fleet.submit(1, 2, 3, transport=transport, lasts_s=4.0)
    fleet.wait_for_start(2)
    for offset_s in (7_200, -7_200):
        env = prefetch | wrong_clock(offset_s)
        fleet.worker(transport, env=env, lease_s=LONG_LEASE_S, is_awaited=False)
    fleet.submit(*range(4, 10), transport=transport, lasts_s=3.0)
    fleet.wait_for_ends(9)
    wait_until(lambda: fleet.n_unacked() == 0, 10, "all to be settled")

    runs = read_runs(fleet.effects)
    clocks = {round(run.clock_is_off_by_s, -2) for of_one in runs.values() for run in of_one}
    assert clocks == {-7_200, 0, 7_200}
    return runs


def wrong_clock(offset_s: int) -> dict[str, str]:
    """The environment in which the wall clock is wrong by so many seconds."""
    [library] = Path(libfaketime.__file__).parent.rglob("libfaketime.so.1")
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{offset_s:+d}", "DONT_FAKE_MONOTONIC": "1"}
