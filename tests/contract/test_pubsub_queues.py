"""Message queues on Pub/Sub: consumers that die, connections that break, and what is the service's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.errors import BrokerUnavailable, InvalidSettings, MessagingClosed
from pynomaly_tasks.messaging import QueueManager, QueueOptions, build_backend
from support.kafka_topics import unique_name
from support.messaging import one, payloads, until
from support.processes import Programs
from support.pubsub_emulator import PubSubEmulator
from support.queue_outages import ConsumedQueue, comes, outlive_a_holder
from support.tcp_proxy import TcpProxy
from support.waiting import wait_until

LEASE_S = 2.0


@pytest.mark.pubsub
async def test_what_a_killed_process_held_is_done_by_the_other_within_the_lease_on_pubsub(
    pubsub_emulator: PubSubEmulator, programs: Programs, tmp_path: Path
) -> None:
    queue = ConsumedQueue("pubsub", pubsub_emulator.url, programs, tmp_path)
    await queue.fill(40, QueueOptions(lease_s=LEASE_S))
    n_held, took_s = await outlive_a_holder(queue, n_messages=40)

    # The other process takes a second or two to start.
    assert took_s < LEASE_S + 6.0
    assert sorted(n for n, _ in queue.done()) == list(range(40))
    assert sorted(attempt for _, attempt in queue.done()) == [1] * (40 - n_held) + [2] * n_held
    async with queue.manager() as manager:
        assert await manager.dead_letters.list_letters("q") == []


@pytest.mark.pubsub
async def test_workers_resume_by_themselves_after_their_connections_to_pubsub_broke(
    pubsub_emulator: PubSubEmulator, tcp_proxy: Callable[[int], TcpProxy], programs: Programs, tmp_path: Path
) -> None:
    proxy = tcp_proxy(pubsub_emulator.port)
    url = pubsub_emulator.url.replace(str(pubsub_emulator.port), str(proxy.port))
    queue = ConsumedQueue("pubsub", url, programs, tmp_path)
    await queue.fill(1_000, QueueOptions(lease_s=LEASE_S, retry=RetryPolicy(max_retries=10)))
    workers = [queue.consumer("work"), queue.consumer("worker:0.001")]
    for n_done in (150, 500):
        wait_until(lambda n=n_done: len(queue.done()) >= n, 60.0, f"{n_done} to be done")
        proxy.reset()
    wait_until(lambda: len(queue.times_done()) == 1_000, 60.0, "all 1,000 to be done")

    assert all(worker.is_running() for worker in workers)
    async with queue.manager() as manager:
        assert await manager.dead_letters.list_letters("q") == []


async def test_closed_port_of_pubsub_is_an_error_within_the_connect_timeout() -> None:
    url = f"pubsub://test-project?endpoint=127.0.0.1:{find_free_port()}"
    backend = build_backend("pubsub", url, connect_timeout_s=1.0)  # which imports for a moment
    started = time.monotonic()

    with pytest.raises(BrokerUnavailable, match="no answer"):
        await backend.open()
    assert time.monotonic() - started < 1.5


@pytest.mark.pubsub
async def test_silent_pubsub_is_an_error_within_the_timeout(
    pubsub_emulator: PubSubEmulator, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(pubsub_emulator.port)
    url = pubsub_emulator.url.replace(str(pubsub_emulator.port), str(proxy.port))
    backend = build_backend("pubsub", url, namespace=unique_name("hang"), timeout_s=1.0)
    async with QueueManager(backend) as manager:
        await manager.create_queue("q")
        await manager.send("q", 1)
        proxy.stall()
        for call in (manager.send("q", 2), manager.receive("q", wait_s=30.0), manager.health()):
            started = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                await call
            assert time.monotonic() - started < 3.0
        proxy.flow()
        await until(lambda: comes(manager, 1), "the message after the silence", timeout_s=30.0)
    with pytest.raises(MessagingClosed):
        await manager.send("q", 3)


@pytest.mark.pubsub
async def test_ordering_keys_keep_the_order_and_wait_for_who_holds_the_first(
    pubsub_emulator: PubSubEmulator,
) -> None:
    backend = build_backend("pubsub", f"{pubsub_emulator.url}&ordering=true", namespace=unique_name("order"))
    async with QueueManager(backend) as manager:
        await manager.create_queue("q")
        for n in range(5):
            await manager.send("q", n)
        first = await one(manager, "q")
        await first.ack()

        assert first.message.payload == 0
        assert await payloads(manager, "q", wait_s=0.3) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "url", ["http://p", "pubsub://", "pubsub://My Project", "pubsub://p-roject?colour=red",
            "pubsub://p-roject?ordering=maybe", "pubsub://p-roject/x"]
)  # fmt: skip
def test_url_that_is_none_of_pubsub_is_refused(url: str) -> None:
    with pytest.raises(InvalidSettings, match=r"messaging\.url"):
        build_backend("pubsub", url)
