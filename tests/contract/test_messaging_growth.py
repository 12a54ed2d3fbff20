"""Memory does not grow with the number of messages that came and went."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.messaging import Kind, Message, Overflow, QueueManager, QueueOptions, Worker
from support.messaging import BrokerUnderTest, MemoryUnderTest, ServerUnderTest

N_FIRST, N_MORE = 2_000, 18_000
#: A leak of one object for each message, or for each hundred that go together, is 18,000 or 180.
MAX_GROWTH = 150
OPTIONS = QueueOptions(kind=Kind.PRIORITY, retry=RetryPolicy(max_retries=3, backoff_s=0.0))


@pytest.fixture(params=["memory", "redis_streams"])
def own_broker(request: pytest.FixtureRequest) -> Iterator[BrokerUnderTest]:
    if request.param == "memory":
        yield MemoryUnderTest()
    else:
        server: RedisServer = request.getfixturevalue("own_redis")
        yield ServerUnderTest("redis_streams", f"{server.url}/0")


async def nothing(_: Message) -> None:
    """Handle it."""


async def pass_through(manager: QueueManager, worker: Worker, n_messages: int) -> None:
    """Send and handle so many, of several priorities; each tenth fails once and is tried again."""
    for at in range(0, n_messages, 100):
        await manager.send_many("q", list(range(at, at + 100)), priority=at // 100 % 3)
        for delivery in await manager.receive("q", max_messages=10):
            await delivery.nack("not now")
        await worker.run_once()


def live_objects() -> tuple[int, Counter[str]]:
    """Blocks that Python's allocator has given out, and objects by type."""
    for _ in range(3):
        gc.collect()
    return sys.getallocatedblocks(), Counter(type(each).__name__ for each in gc.get_objects())


async def test_neither_sender_nor_worker_keeps_anything_of_what_is_done(own_broker: BrokerUnderTest) -> None:
    async with own_broker.manager() as manager:
        await manager.create_queue("q", OPTIONS)
        worker = Worker(manager, ["q"], concurrency=20, batch_size=100)
        worker.add_handler(nothing)
        await pass_through(manager, worker, N_FIRST)
        n_blocks, objects = live_objects()

        await pass_through(manager, worker, N_MORE)

        n_blocks_after, objects_after = live_objects()
        grown = {name: n for name, n in (objects_after - objects).items() if n > MAX_GROWTH}
        measure = (await manager.statistics("q")).measure
        assert (measure.acknowledged, measure.depth) == (N_FIRST + N_MORE, 0)
        assert grown == {}
        # Blocks are also what strings and numbers are made of, which no list of objects has.
        assert n_blocks_after - n_blocks < N_MORE / 10


async def test_queue_in_memory_that_overflows_and_has_no_consumer_does_not_grow() -> None:
    options = QueueOptions(max_size=20, overflow=Overflow.DROP_OLDEST, dead_letters=False)
    async with MemoryUnderTest().manager() as manager:
        await manager.create_queue("q", options)
        for _ in range(1_500):
            await manager.send("q", 1)
        n_blocks, _ = live_objects()

        for _ in range(3_000):
            await manager.send("q", 1)

        assert live_objects()[0] - n_blocks < 1_000
        assert (await manager.statistics("q")).measure.depth == 20


async def test_server_keeps_nothing_of_what_is_done(own_redis: RedisServer) -> None:
    broker = ServerUnderTest("redis_streams", f"{own_redis.url}/0")

    async with broker.manager() as manager:
        await manager.create_queue("q", OPTIONS)
        worker = Worker(manager, ["q"], concurrency=20, batch_size=100)
        worker.add_handler(nothing)
        await pass_through(manager, worker, N_FIRST)
        with own_redis.client() as client:
            sizes = {key: client.memory_usage(key) for key in client.keys("*")}

            await pass_through(manager, worker, N_FIRST)

            assert {key: client.memory_usage(key) for key in client.keys("*")}.keys() == sizes.keys()
            grown = {key: client.memory_usage(key) - size for key, size in sizes.items()}
        assert max(grown.values()) < 1_000, grown
