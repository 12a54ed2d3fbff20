"""A broker that breaks connections, stands still, dies, fills up; clocks that are wrong."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import libfaketime
import pytest
import redis
from kombu.exceptions import OperationalError

from pynomaly_tasks.embedded.redis_server import RedisServer
from support.processes import Programs
from support.tcp_proxy import TcpProxy
from support.transport import Fleet
from support.waiting import wait_until


@pytest.fixture
def fleet(
    own_redis: RedisServer, start_redis: Callable[..., RedisServer], programs: Programs
) -> Iterator[Fleet]:
    fleet = Fleet(own_redis, programs, effects=start_redis())
    yield fleet
    fleet.close()


def through(proxy: TcpProxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}/1"


@pytest.mark.parametrize("pool", ["prefork", "threads"])
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
    wait_until(lambda: time.monotonic() - waited_from > 3 * 2.0, 20, "three leases")
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
    proxy = tcp_proxy(fleet.server.port)
    worker = fleet.worker(pool="threads", slots=4, broker_url=through(proxy))
    fleet.submit(*range(400), lasts_s=0.05)

    while len(fleet.ended()) < 400:
        seen, until = len(fleet.ended()), time.monotonic() + 2.0
        wait_until(
            lambda seen=seen, until=until: (
                len(fleet.ended()) >= min(seen + 40, 400) and time.monotonic() > until
            ),
            60,
            f"more than {seen} of 400 tasks to end",
        )
        proxy.reset()
    wait_until(lambda: fleet.n_unacked() == 0 and fleet.n_waiting() == 0, 20, "all to be settled")

    assert worker.is_running()
    assert set(fleet.ended()) == set(range(400))
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


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_workers_resume_when_redis_is_back_and_the_running_task_runs_once(fleet: Fleet, pool: str) -> None:
    worker = fleet.worker(pool=pool)
    other = fleet.worker(pool=pool)
    fleet.submit(1, lasts_s=8.0)
    fleet.wait_for_start(1)

    fleet.server.restart()
    back_at = time.monotonic()
    fleet.submit(2)
    wait_until(lambda: fleet.ended()[2], 20, "a task after the restart")
    took_s = time.monotonic() - back_at
    wait_until(lambda: fleet.ended()[1], 30, "the task that ran through the restart")
    wait_until(lambda: fleet.n_unacked() == 0, 10, "all to be settled")

    assert took_s < 5.0
    assert fleet.started() == {1: 1, 2: 1}
    assert worker.is_running()
    assert other.is_running()


def test_redis_that_stood_still_for_longer_than_the_lease_gives_nothing_away(fleet: Fleet) -> None:
    workers = [fleet.worker(), fleet.worker()]
    fleet.submit(*range(1, 5), lasts_s=9.0)
    for number in range(1, 5):
        fleet.wait_for_start(number)

    fleet.server.signal(signal.SIGSTOP)
    paused_at = time.monotonic()
    wait_until(lambda: time.monotonic() - paused_at > 5.0, 10, "two and a half leases")
    fleet.server.signal(signal.SIGCONT)
    fleet.submit(5)
    resumed_at = time.monotonic()
    fleet.wait_for_ends(5)
    wait_until(lambda: fleet.n_unacked() == 0, 10, "all to be settled")

    assert time.monotonic() - resumed_at < 20
    assert set(fleet.started().values()) == {1}
    assert all(worker.is_running() for worker in workers)


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


@pytest.mark.parametrize("offset", ["+7200", "-7200"])
def test_worker_with_a_wrong_clock_runs_nothing_twice(fleet: Fleet, offset: str) -> None:
    fleet.worker()
    fleet.submit(*range(1, 3), lasts_s=4.0)
    for number in (1, 2):
        fleet.wait_for_start(number)
    fleet.worker(env=wrong_clock(offset))
    fleet.submit(*range(3, 7), lasts_s=3.0)

    fleet.wait_for_ends(6)
    wait_until(lambda: fleet.n_unacked() == 0, 5, "all to be settled")

    assert set(fleet.started().values()) == {1}


def wrong_clock(offset: str) -> dict[str, str]:
    """The environment in which the wall clock is wrong by so many seconds."""
    [library] = Path(libfaketime.__file__).parent.rglob("libfaketime.so.1")
    return {"LD_PRELOAD": str(library), "FAKETIME": offset, "DONT_FAKE_MONOTONIC": "1"}
