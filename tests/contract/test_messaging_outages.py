"""Consumers that die, and servers that restart, stall, are full or are not there."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.embedded.redis_server import RedisServer, bundled_redis_binary
from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.messaging import Guarantee, Kind, Overflow, QueueManager, QueueOptions, Reason
from pynomaly_tasks.messaging.backends.redis_streams.backend import RedisStreamsBackend
from support.messaging import one, payloads, until
from support.processes import Program, Programs
from support.tcp_proxy import TcpProxy
from support.waiting import wait_until

CONSUMER = Path(__file__).parents[1] / "support" / "messaging_consumer.py"
LEASE_S = 1.0
FROM_HERE = {"PYTHONPATH": str(CONSUMER.parents[2])}


def _manager(server: RedisServer, **options: float) -> QueueManager:
    return QueueManager(RedisStreamsBackend(f"{server.url}/0", namespace="crash", **options))


def _consumer(programs: Programs, server: RedisServer, mode: str) -> Program:
    return programs.python(
        CONSUMER, f"{server.url}/0", "crash", "q", "done", mode, ready="^ready", env=FROM_HERE
    )


def _done(server: RedisServer) -> list[tuple[int, int]]:
    """Number and attempt of each effect, in order."""
    with server.client() as client:
        return [
            (int(n), int(attempt))
            for n, attempt in (each.split(b":") for each in client.lrange("done", 0, -1))
        ]


def _has_loaded(server: RedisServer) -> bool:
    with server.client() as client:
        return not client.info("persistence")["loading"]


async def test_what_a_killed_process_held_is_done_by_the_other_within_the_lease(
    own_redis: RedisServer, programs: Programs
) -> None:
    async with _manager(own_redis) as manager:
        await manager.create_queue("q", QueueOptions(lease_s=LEASE_S))
        await manager.send_many("q", list(range(40)))
        doomed = _consumer(programs, own_redis, "hold")
        doomed.wait_for_output("holds 20")
        doomed.kill()
        killed_at = time.monotonic()
        _consumer(programs, own_redis, "work")
        wait_until(lambda: len(_done(own_redis)) == 40, 20.0, "all 40 to be done")
        took_s = time.monotonic() - killed_at
        measure = (await manager.statistics("q")).measure

        # The other process takes a second to start.
        assert took_s < LEASE_S + 5.0
        assert sorted(_done(own_redis)) == [(n, 2) for n in range(20)] + [(n, 1) for n in range(20, 40)]
        assert (measure.acknowledged, measure.delivered, measure.depth) == (40, 60, 0)


async def test_workers_resume_by_themselves_after_the_server_was_killed_twice(
    own_redis: RedisServer, programs: Programs
) -> None:
    async with _manager(own_redis) as manager:
        await manager.create_queue("q", QueueOptions(lease_s=LEASE_S))
        await manager.send_many("q", list(range(1_000)))
    workers = [_consumer(programs, own_redis, "work") for _ in range(2)]
    for n_done in (150, 500):
        wait_until(lambda n=n_done: len(_done(own_redis)) >= n, 30.0, f"{n_done} to be done")
        own_redis.restart()
        wait_until(lambda: _has_loaded(own_redis), 20.0, "the server to have loaded its data")
    async with _manager(own_redis) as manager:
        wait_until(lambda: len({n for n, _ in _done(own_redis)}) == 1_000, 40.0, "all 1,000 to be done")

        async def is_empty() -> bool:
            return (await manager.statistics("q")).measure.depth == 0

        await until(is_empty, "the queue to be empty", timeout_s=20.0)
        assert await manager.dead_letters.list_letters("q") == []
    n_twice = sum(times > 1 for times in Counter(n for n, _ in _done(own_redis)).values())
    # What was held when the server went, at most, in each of the two restarts.
    assert n_twice <= 2 * 2 * 20
    assert all(worker.is_running() for worker in workers)


async def test_worker_resumes_by_itself_after_the_server_was_killed(
    own_redis: RedisServer, programs: Programs
) -> None:
    async with _manager(own_redis) as manager:
        await manager.create_queue("q", QueueOptions(lease_s=LEASE_S))
        await manager.send_many("q", list(range(1_000)))
    worker = _consumer(programs, own_redis, "worker:0.001")
    for n_done in (200, 600):
        wait_until(lambda n=n_done: len(_done(own_redis)) >= n, 60.0, f"{n_done} to be done")
        own_redis.restart()
        wait_until(lambda: _has_loaded(own_redis), 20.0, "the server to have loaded its data")
    async with _manager(own_redis) as manager:

        async def is_empty() -> bool:
            return (await manager.statistics("q")).measure.depth == 0

        await until(is_empty, "the queue to be empty", timeout_s=60.0)
        worker.signal_group(signal.SIGTERM)
        wait_until(lambda: not worker.is_running(), 10.0, "the worker to end")
        measure = (await manager.statistics("q")).measure

        assert {n for n, _ in _done(own_redis)} == set(range(1_000))
        assert worker.returncode == 0
        assert (measure.depth, measure.acknowledged) == (0, 1_000)
        assert await manager.dead_letters.list_letters("q") == []


async def test_closed_port_is_an_error_within_the_connect_timeout() -> None:
    backend = RedisStreamsBackend(f"redis://:hush@127.0.0.1:{find_free_port()}/0", connect_timeout_s=1.0)
    started = time.monotonic()

    with pytest.raises(BrokerUnavailable, match="no answer") as caught:
        await backend.open()
    assert time.monotonic() - started < 1.5
    assert "hush" not in str(caught.value)


async def test_silent_server_is_an_error_within_the_timeout(
    own_redis: RedisServer, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(own_redis.port)
    backend = RedisStreamsBackend(f"redis://127.0.0.1:{proxy.port}/0", timeout_s=0.5)
    async with QueueManager(backend) as manager:
        await manager.create_queue("q")
        await manager.send("q", 1)
        proxy.stall()
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            await manager.send("q", 2)
        with pytest.raises(BrokerUnavailable):
            await manager.receive("q", wait_s=30.0)
        assert time.monotonic() - started < 3.0
        proxy.flow()

        assert 1 in await payloads(manager, "q")


async def test_connection_that_breaks_before_the_answer_puts_nothing_twice(
    own_redis: RedisServer, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(own_redis.port)
    backend = RedisStreamsBackend(f"redis://127.0.0.1:{proxy.port}/0", timeout_s=2.0)
    async with QueueManager(backend) as manager:
        await manager.create_queue("q", QueueOptions(deduplication_s=60.0))
        await manager.send("q", 0)
        n_unknown = 0
        for n in range(1, 6):
            proxy.cut_after_bytes = 0
            proxy.reset()
            try:
                await manager.send("q", n)
            except BrokerUnavailable:
                n_unknown += 1
            proxy.cut_after_bytes = None
            proxy.reset()
            while True:
                try:
                    await manager.send(
                        "q", n
                    )  # the same content: sent once, whether the first came through or not
                    break
                except BrokerUnavailable:
                    n_unknown += 1

        assert n_unknown >= 5
        assert await payloads(manager, "q") == [0, 1, 2, 3, 4, 5]


async def test_full_server_refuses_and_can_be_emptied(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(maxmemory="4mb")
    async with _manager(server) as manager:
        await manager.create_queue("q", QueueOptions(lease_s=30.0))
        n_sent = 0
        with pytest.raises(BrokerUnavailable, match=r"maxmemory|OOM"):
            while n_sent < 10_000:
                await manager.send("q", "x" * 20_000)
                n_sent += 1
        assert n_sent > 10
        delivery = await one(manager, "q")
        await delivery.give_back()

        assert len(await payloads(manager, "q")) == n_sent
        assert (await manager.statistics("q")).measure.depth == 0
        await manager.send("q", "there is room")


async def test_consumers_that_died_long_ago_are_forgotten_and_holders_are_not(own_redis: RedisServer) -> None:
    def consumers() -> int:
        with own_redis.client() as client:
            return len(client.xinfo_consumers("crash:c:q:s:0", "work"))

    async with _manager(own_redis) as idle, _manager(own_redis) as holder, _manager(own_redis) as manager:
        await manager.create_queue("q")
        await manager.send_many("q", [1, 2])
        await payloads(idle, "q")
        await manager.send("q", 3)
        await one(holder, "q")
        assert consumers() == 2
        with own_redis.client() as client:
            # There is no hour to wait for: the idle one's last sign of life is set back instead.
            source = (
                CONSUMER.parents[2] / "pynomaly_tasks/messaging/backends/redis_streams/scripts"
            ).joinpath
            script = source("channel.lua").read_text() + source("tidy.lua").read_text().replace(
                "3600000", "-1"
            )
            assert client.eval(script, 1, "crash", "q") == 1
        assert consumers() == 1
        assert (await manager.statistics("q")).measure.in_flight == 1


async def test_every_step_works_on_valkey_too(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(binary=bundled_redis_binary())
    options = QueueOptions(
        kind=Kind.PRIORITY, deduplication_s=60.0, max_size=5, overflow=Overflow.DROP_OLDEST, lease_s=0.05
    )
    async with _manager(server) as manager:
        await manager.subscribe("q", "a.#", options=options)
        receipt = await manager.publish("a.b", "first", priority=1, guarantee=Guarantee.BROADCAST)
        await manager.send("q", "top", priority=9, delay_s=0.05)
        assert (await manager.send("q", "first")).duplicates == ("q",)
        await one(manager, "q")
        assert (await one(manager, "q")).message.payload in ("first", "top")
        assert sorted(await payloads(manager, "q", wait_s=0.3)) == ["first", "top"]
        assert await receipt.wait(5.0) == {"q"}
        for n in range(6):
            await manager.send("q", n)
        delivery = await one(manager, "q", lease_s=30.0)
        await delivery.extend(60.0)
        await delivery.nack(delay_s=60.0)
        (letter,) = await manager.dead_letters.list_letters("q")
        assert (letter.reason, letter.message and letter.message.payload) == (Reason.OVERFLOW, 0)
        await manager.dead_letters.redrive("q", letter.id)
        assert (await manager.statistics("q")).measure.delayed == 1
        assert await manager.purge_queue("q") == 6
        await manager.delete_queue("q")
        assert await manager.list_queues() == {}
