"""Consumers that die, and servers that restart, stall, are full or are not there."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.embedded.redis_server import RedisServer, bundled_redis_binary
from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.messaging import Guarantee, Kind, Overflow, QueueManager, QueueOptions, Reason
from pynomaly_tasks.messaging.backends.redis_streams.backend import RedisStreamsBackend
from support.messaging import one, payloads
from support.processes import ROOT, Programs
from support.queue_outages import ConsumedQueue, outlive_a_holder_of_20, outlive_restarts
from support.tcp_proxy import TcpProxy
from support.waiting import wait_until

LEASE_S = 1.0


def _manager(server: RedisServer, **options: float) -> QueueManager:
    return QueueManager(RedisStreamsBackend(f"{server.url}/0", namespace="crash", **options))


def _queue(server: RedisServer, programs: Programs, directory: Path) -> ConsumedQueue:
    return ConsumedQueue("redis_streams", f"{server.url}/0", programs, directory)


def _restart(server: RedisServer) -> None:
    server.restart()
    with server.client() as client:
        wait_until(
            lambda: not client.info("persistence")["loading"], 20.0, "the server to have loaded its data"
        )


async def test_what_a_killed_process_held_is_done_by_the_other_within_the_lease(
    own_redis: RedisServer, programs: Programs, tmp_path: Path
) -> None:
    queue = _queue(own_redis, programs, tmp_path)
    await queue.fill(40, QueueOptions(lease_s=LEASE_S))
    await outlive_a_holder_of_20(queue, lease_s=LEASE_S)

    async with queue.manager() as manager:
        measure = (await manager.statistics("q")).measure
        assert (measure.acknowledged, measure.delivered) == (40, 60)


async def test_workers_resume_by_themselves_after_the_server_was_killed_twice(
    own_redis: RedisServer, programs: Programs, tmp_path: Path
) -> None:
    queue = _queue(own_redis, programs, tmp_path)
    await queue.fill(1_000, QueueOptions(lease_s=LEASE_S))

    await outlive_restarts(queue, [partial(_restart, own_redis)] * 2, n_messages=1_000)

    async with queue.manager() as manager:
        assert (await manager.statistics("q")).measure.acknowledged == 1_000


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
            source = (ROOT / "pynomaly_tasks/messaging/backends/redis_streams/scripts").joinpath
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
