"""The relay's doorbell on a real Redis: it saves time where it works, and costs little where it does not."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import pytest

from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.events.wake import OutboxBell, WakeListener
from support.waiting import wait_until


@pytest.fixture
def bell(own_redis: RedisServer) -> Iterator[OutboxBell]:
    bell = OutboxBell(own_redis.url)
    yield bell
    bell.close()


def _listen(url: str, *waits_s: float, key: str = "wait") -> list[float]:
    """How long each wait took."""

    async def listen() -> list[float]:
        listener = WakeListener(url)
        took_s = []
        for timeout_s in waits_s:
            started_s = time.monotonic()
            await getattr(listener, key)(timeout_s)
            took_s.append(time.monotonic() - started_s)
        await listener.close()
        return took_s

    return asyncio.run(listen())


def test_ring_ends_the_wait_at_once(own_redis: RedisServer, bell: OutboxBell) -> None:
    async def scenario() -> float:
        listener = WakeListener(own_redis.url)
        waiting = asyncio.create_task(listener.wait(30.0))
        with own_redis.client() as client:
            await asyncio.to_thread(
                wait_until, lambda: client.info("clients")["blocked_clients"] == 1, 10.0, "it to wait"
            )
        rung_at_s = time.monotonic()
        await asyncio.to_thread(bell.ring)
        await waiting
        took_s = time.monotonic() - rung_at_s
        await listener.close()
        return took_s

    assert asyncio.run(scenario()) < 2.0


def test_ring_that_nobody_heard_waits_and_many_are_one(own_redis: RedisServer, bell: OutboxBell) -> None:
    for _ in range(100):
        bell.ring()

    first_s, second_s = _listen(own_redis.url, 30.0, 0.3)

    assert first_s < 5.0
    assert second_s >= 0.3
    with own_redis.client() as client:
        assert client.dbsize() == 0


def test_wait_without_a_ring_ends_in_time(own_redis: RedisServer) -> None:
    [took_s] = _listen(own_redis.url, 0.3)

    assert 0.3 <= took_s < 2.3


def test_without_redis_waiting_is_sleeping(own_redis: RedisServer) -> None:
    own_redis.kill()

    first_s, second_s = _listen(own_redis.url, 0.3, 0.3)

    assert (first_s, second_s) == (pytest.approx(0.3, abs=0.25), pytest.approx(0.3, abs=0.25))


def test_redis_that_stands_still_ends_no_wait_late(own_redis: RedisServer) -> None:
    own_redis.signal(signal.SIGSTOP)
    try:
        [took_s] = _listen(own_redis.url, 0.3)
    finally:
        own_redis.signal(signal.SIGCONT)

    assert took_s < 6.0


def test_relay_that_stands_by_hears_of_the_vacancy_and_not_of_events(
    own_redis: RedisServer, bell: OutboxBell
) -> None:
    async def leave() -> None:
        listener = WakeListener(own_redis.url)
        await listener.tell_vacancy()
        await listener.close()

    bell.ring()
    [alone_s] = _listen(own_redis.url, 0.3, key="wait_for_vacancy")
    asyncio.run(leave())
    [told_s] = _listen(own_redis.url, 30.0, key="wait_for_vacancy")

    assert alone_s >= 0.3
    assert told_s < 5.0


def test_redis_that_is_away_costs_the_job_one_timeout_and_then_nothing(
    own_redis: RedisServer, bell: OutboxBell, capfd: pytest.CaptureFixture[str]
) -> None:
    bell.ring()
    own_redis.signal(signal.SIGSTOP)
    try:
        started_s = time.monotonic()
        for _ in range(200):
            bell.ring()
        took_s = time.monotonic() - started_s
    finally:
        own_redis.signal(signal.SIGCONT)

    assert took_s < 1.0
    assert "".join(capfd.readouterr()).count("relay_not_woken") == 1


def test_bell_rings_again_after_redis_was_restarted(own_redis: RedisServer, bell: OutboxBell) -> None:
    bell.ring()
    own_redis.kill()
    bell.ring()
    own_redis.start()

    with own_redis.client() as client:
        client.flushall()
        wait_until(lambda: bell.ring() or client.dbsize() == 1, 15.0, "the bell to ring again")


def test_forked_child_rings_on_a_connection_of_its_own(own_redis: RedisServer, bell: OutboxBell) -> None:
    bell.ring()
    with own_redis.client() as client:
        client.flushall()
        pid = os.fork()
        if pid == 0:
            bell.ring()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert client.dbsize() == 1
    bell.ring()
