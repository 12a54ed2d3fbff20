"""Message queues on RabbitMQ: consumers that die or hang, and a server that restarts, hangs or is not there."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import aio_pika
import pytest

from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.errors import BrokerUnavailable, LeaseLost, MessagingClosed
from pynomaly_tasks.messaging import Kind, QueueManager, QueueOptions, Reason, build_backend
from support.kafka_topics import unique_name
from support.messaging import one, payloads, until
from support.processes import Programs
from support.queue_outages import (
    ConsumedQueue,
    comes,
    is_empty,
    is_held_by,
    outlive_a_holder,
    outlive_restarts,
)
from support.rabbitmq import RabbitServer
from support.tcp_proxy import TcpProxy


def _manager(url: str, **options: float) -> QueueManager:
    return QueueManager(build_backend("rabbitmq", url, namespace=unique_name("outage"), **options))


def _proxied(server: RabbitServer, proxy: TcpProxy) -> str:
    return server.url.replace(str(server.port), str(proxy.port))


def _queue(server: RabbitServer, programs: Programs, directory: Path) -> ConsumedQueue:
    return ConsumedQueue("rabbitmq", server.url, programs, directory)


async def test_what_a_killed_process_held_is_done_by_the_other_at_once_on_rabbitmq(
    rabbitmq: RabbitServer, programs: Programs, tmp_path: Path
) -> None:
    queue = _queue(rabbitmq, programs, tmp_path)
    await queue.fill(40, QueueOptions(lease_s=60.0))
    n_held, took_s = await outlive_a_holder(queue, n_messages=40)

    # Far below the lease: the broken connection tells. The other process takes a second to start.
    assert (n_held, took_s < 20.0) == (20, True)
    assert sorted(queue.done()) == [(n, 2) for n in range(20)] + [(n, 1) for n in range(20, 40)]
    async with queue.manager() as manager:
        await until(lambda: is_empty(manager), "the queue to be empty")
        assert await manager.dead_letters.list_letters("q") == []


async def test_message_that_kills_every_consumer_is_a_dead_letter_on_rabbitmq(
    rabbitmq: RabbitServer, programs: Programs, tmp_path: Path
) -> None:
    queue = _queue(rabbitmq, programs, tmp_path)
    async with queue.manager() as manager:
        await manager.create_queue("q", QueueOptions(lease_s=60.0))
        await manager.send("q", "deadly")
        for _ in range(4):
            doomed = queue.consumer("hold")
            assert await is_held_by(doomed) == 1
            assert (await manager.statistics("q")).measure.in_flight == 1
            doomed.kill()

        assert await manager.receive("q", wait_s=5.0) == []
        (letter,) = await manager.dead_letters.list_letters("q")
        assert (letter.reason, letter.message and letter.message.payload) == (
            Reason.RETRIES_USED_UP,
            "deadly",
        )


async def test_paused_process_loses_what_it_held_when_heartbeats_are_missed(
    rabbitmq: RabbitServer, programs: Programs, tmp_path: Path
) -> None:
    queue = _queue(rabbitmq, programs, tmp_path)
    async with queue.manager() as manager:
        await manager.create_queue("q", QueueOptions(lease_s=60.0))
        await manager.send_many("q", [1, 2])
        paused = queue.consumer("hold", query="?heartbeat=1")
        assert await is_held_by(paused) == 2
        paused.pause()
        try:
            await manager.send("q", 3)
            started = time.monotonic()
            # Asked and not answering, it is not waited for.
            assert (await manager.statistics("q")).measure.depth == 1
            assert time.monotonic() - started < 5.0
            found = [await one(manager, "q", wait_s=20.0) for _ in range(3)]

            assert sorted((d.message.payload, d.attempt) for d in found) == [(1, 2), (2, 2), (3, 1)]
        finally:
            paused.resume()


async def test_workers_resume_by_themselves_after_rabbitmq_was_killed(
    own_rabbitmq: RabbitServer, programs: Programs, tmp_path: Path
) -> None:
    queue = _queue(own_rabbitmq, programs, tmp_path)
    await queue.fill(1_000, QueueOptions(lease_s=30.0))
    own_rabbitmq.wait_until_streams_last()

    await outlive_restarts(queue, [own_rabbitmq.restart], n_messages=1_000)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_workers_resume_by_themselves_after_each_of_many_restarts_of_rabbitmq(
    own_rabbitmq: RabbitServer, programs: Programs, tmp_path: Path
) -> None:
    queue = _queue(own_rabbitmq, programs, tmp_path)
    restarts = [partial(own_rabbitmq.restart, gently=gently) for gently in (True, False) * 3]
    await queue.fill(5_000, QueueOptions(lease_s=30.0))
    own_rabbitmq.wait_until_streams_last()

    await outlive_restarts(queue, restarts, n_messages=5_000)


async def test_closed_port_of_rabbitmq_is_an_error_within_the_connect_timeout() -> None:
    url = f"amqp://user:hush@127.0.0.1:{find_free_port()}/"
    backend = build_backend("rabbitmq", url, connect_timeout_s=1.0)
    started = time.monotonic()

    with pytest.raises(BrokerUnavailable, match="no answer") as caught:
        await backend.open()
    assert time.monotonic() - started < 1.5
    assert "hush" not in str(caught.value)


async def test_wrong_password_of_rabbitmq_is_an_error_that_does_not_tell_it(rabbitmq: RabbitServer) -> None:
    backend = build_backend("rabbitmq", rabbitmq.url.replace("guest:guest", "guest:hush"))

    with pytest.raises(BrokerUnavailable, match="ACCESS_REFUSED") as caught:
        await backend.open()
    assert "hush" not in str(caught.value)


async def test_silent_rabbitmq_is_an_error_within_the_timeout_and_is_used_again(
    rabbitmq: RabbitServer, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(rabbitmq.port)
    async with _manager(_proxied(rabbitmq, proxy), timeout_s=1.0, connect_timeout_s=1.0) as manager:
        await manager.create_queue("q", QueueOptions(lease_s=60.0))
        await manager.send("q", 1)
        proxy.stall()
        started = time.monotonic()
        for call in (manager.send("q", 2), manager.receive("q", wait_s=30.0), manager.health()):
            with pytest.raises(BrokerUnavailable):
                await call
        took_s = time.monotonic() - started
        proxy.flow()
        await until(lambda: comes(manager, 1), "the message after the silence", timeout_s=20.0)
        assert took_s < 3 * 3.5
    with pytest.raises(MessagingClosed):
        await manager.send("q", 3)
    with pytest.raises(MessagingClosed):
        await manager.receive("q")


async def test_held_messages_of_a_broken_connection_come_again_and_the_old_holder_is_told(
    rabbitmq: RabbitServer, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(rabbitmq.port)
    async with _manager(_proxied(rabbitmq, proxy)) as manager:
        await manager.create_queue("q", QueueOptions(lease_s=60.0))
        await manager.send("q", 1)
        lost = await one(manager, "q")
        proxy.reset()

        async def try_ack() -> bool:
            try:
                await lost.ack()
            except LeaseLost:
                return True
            except BrokerUnavailable:
                pass
            return False

        await until(try_ack, "the loss to be told")
        again = await one(manager, "q")
        assert (again.message.id, again.attempt) == (lost.message.id, 2)
        await again.ack()
        assert await is_empty(manager)


async def test_confirmed_sends_are_there_whenever_the_connection_breaks(
    rabbitmq: RabbitServer, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(rabbitmq.port)
    async with _manager(_proxied(rabbitmq, proxy), timeout_s=2.0) as manager:
        await manager.create_queue("q")
        sent, n_unknown = [], 0
        for n in range(60):
            if n % 10 == 9:
                proxy.reset()
            try:
                await manager.send("q", n)
                sent.append(n)
            except BrokerUnavailable:
                n_unknown += 1
        found = await payloads(manager, "q", wait_s=0.5)

        assert len(sent) + n_unknown == 60
        assert len(sent) > 40
        assert set(sent) <= set(found)
        assert len(found) == len(set(found))


async def test_bytes_of_another_program_in_the_queue_are_unreadable_letters(rabbitmq: RabbitServer) -> None:
    namespace = unique_name("foreign")
    bad = [b"", b"{", b"\xff\xfe\x00", b"[1, 2]", b"\x9fpm\x01short", b"null"]
    async with QueueManager(build_backend("rabbitmq", rabbitmq.url, namespace=namespace)) as manager:
        await manager.create_queue("q")
        await manager.send("q", "before")
        async with await aio_pika.connect(rabbitmq.url) as connection:
            channel = await connection.channel()
            for body in bad:
                await channel.default_exchange.publish(aio_pika.Message(body), routing_key=f"{namespace}/q")
        await manager.send("q", "after")

        assert await payloads(manager, "q", wait_s=0.5) == ["before", "after"]
        letters = await manager.dead_letters.list_letters("q")
        assert [letter.raw for letter in letters] == bad
        assert {letter.reason for letter in letters} == {Reason.UNREADABLE}


async def test_consumer_takes_no_more_than_it_asked_for_also_while_it_waits(rabbitmq: RabbitServer) -> None:
    namespace = unique_name("greed")

    def connect() -> QueueManager:
        return QueueManager(build_backend("rabbitmq", rabbitmq.url, namespace=namespace))

    async with connect() as greedy, connect() as other:
        await greedy.create_queue("q", QueueOptions(lease_s=60.0))
        waiting = asyncio.create_task(greedy.receive("q", max_messages=3, wait_s=20.0))
        await asyncio.sleep(0.2)
        await other.send_many("q", list(range(10)))
        mine = await waiting
        theirs = await other.receive("q", max_messages=10, wait_s=5.0)
        while len(theirs) + len(mine) < 10:
            theirs += await other.receive("q", max_messages=10, wait_s=5.0)

        assert 1 <= len(mine) <= 3
        assert {d.attempt for d in mine + theirs} == {1}
        assert sorted(d.message.payload for d in mine + theirs) == list(range(10))


async def test_one_message_is_waited_for_in_every_lane_of_a_queue_with_priorities(
    rabbitmq: RabbitServer,
) -> None:
    async with _manager(rabbitmq.url) as manager:
        await manager.create_queue("q", QueueOptions(kind=Kind.PRIORITY, lease_s=60.0))
        for priority in (0, 9, 5):
            await manager.send("q", "first", priority=priority)
        await payloads(manager, "q")
        for priority in (5, 0, 9):
            waiting = asyncio.create_task(manager.receive("q", wait_s=20.0))
            await asyncio.sleep(0.2)
            await manager.send("q", priority, priority=priority)
            (delivery,) = await waiting
            await delivery.ack()

            assert (delivery.message.payload, delivery.attempt) == (priority, 1)


async def test_receive_that_is_cancelled_takes_nothing_and_costs_no_other_delivery(
    rabbitmq: RabbitServer,
) -> None:
    async with _manager(rabbitmq.url) as manager:
        await manager.create_queue("q", QueueOptions(lease_s=60.0))
        await manager.send_many("q", [1, 2])
        held = await manager.receive("q", max_messages=2)
        for _ in range(20):
            waiting = asyncio.create_task(manager.receive("q", wait_s=20.0))
            await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        for delivery in held:
            await delivery.ack()
        await manager.send("q", 3)

        assert (await one(manager, "q")).message.payload == 3


async def test_longest_names_are_told_apart(rabbitmq: RabbitServer) -> None:
    namespace = unique_name("n" * 90)[:128]
    queues = ["q" * 127 + end for end in "ab"]
    backend = build_backend("rabbitmq", rabbitmq.url, namespace=namespace)
    async with QueueManager(backend) as manager:
        for queue in queues:
            await manager.create_queue(queue)
            await manager.send(queue, queue[-1])
            await (await one(manager, queue)).reject("kept")
        for queue in queues:
            (letter,) = await manager.dead_letters.list_letters(queue)
            assert letter.message is not None
            assert letter.message.payload == queue[-1]


def test_two_event_loops_of_one_process_share_a_queue(rabbitmq: RabbitServer) -> None:
    namespace = unique_name("loops")
    found: list[int] = []

    async def use(first: int) -> None:
        async with QueueManager(build_backend("rabbitmq", rabbitmq.url, namespace=namespace)) as manager:
            await manager.create_queue("q")
            await manager.send_many("q", list(range(first, first + 50)))
            while len(found) < 100:
                found.extend(await payloads(manager, "q", wait_s=0.1))

    threads = [threading.Thread(target=lambda n=n: asyncio.run(use(n))) for n in (0, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)

    assert sorted(found) == list(range(100))
