"""RabbitMQ: one node from Debian; quorum queues, publisher confirms."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aio_pika

from benchmarks.messaging_peers.systems import CONCURRENCY, PAYLOAD, FastStream, System, nothing, ready_body
from pynomaly_tasks.messaging import Backend, build_backend


class Bare:
    """aio-pika: confirmed, persistent publishing; a consumer with a prefetch of ``at_once``, one ack for them."""

    def __init__(self, url: str) -> None:
        self.seen: Callable[[], None] = nothing
        self._url = url
        self._name = f"bare-{uuid.uuid4().hex[:8]}"
        self._message = aio_pika.Message(ready_body(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)

    async def open(self) -> None:
        self._connection = await aio_pika.connect(self._url)
        self._channel = await self._connection.channel()
        arguments = {"x-queue-type": "quorum"}
        self._queue = await self._channel.declare_queue(self._name, durable=True, arguments=arguments)

    async def close(self) -> None:
        await self._queue.delete(if_unused=False, if_empty=False)
        await self._connection.close()

    async def send(self, n_messages: int, at_once: int) -> None:
        exchange = self._channel.default_exchange
        for _ in range(n_messages // at_once):
            if at_once == 1:
                await exchange.publish(self._message, self._name)
            else:
                await asyncio.gather(*(exchange.publish(self._message, self._name) for _ in range(at_once)))

    async def consume(self, n_messages: int, at_once: int) -> None:
        await self._channel.set_qos(prefetch_count=at_once)
        came: asyncio.Queue[Any] = asyncio.Queue()
        tag = await self._queue.consume(came.put)
        n_held = 0
        for _ in range(n_messages):
            message = await came.get()
            self.seen()
            n_held += 1
            if n_held == at_once:
                await message.ack(multiple=True)
                n_held = 0
        await self._queue.cancel(tag)


class FastStreamOnRabbit(FastStream):
    """A quorum queue, confirmed and persistent; a prefetch of `CONCURRENCY`, each message acknowledged by itself."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def build(self) -> tuple[Any, Any]:
        from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

        broker = RabbitBroker(self._url, logger=None)
        queue = RabbitQueue(self.queue, queue_type=QueueType.QUORUM, durable=True)
        return broker, broker.subscriber(queue, channel=Channel(prefetch_count=CONCURRENCY))

    async def send_one(self) -> None:
        await self.broker.publish(PAYLOAD, self.queue, persist=True)

    async def send_together(self, n_messages: int) -> None:
        await asyncio.gather(*(self.send_one() for _ in range(n_messages)))


class RabbitBench:
    """See `Broker`."""

    name = "rabbitmq"
    distributions: Sequence[str] = ("aio-pika",)
    n_one_by_one = 30
    n_at_once = 300
    max_rounds = 100
    max_probes = 1_000

    def start(self, stack: ExitStack, directory: Path) -> None:
        from support.rabbitmq import RabbitServer

        server = RabbitServer(directory / "rabbitmq")
        stack.callback(server.close)
        self.url = server.start().url

    def backend(self) -> Backend:
        return build_backend("rabbitmq", self.url, namespace=f"bench-{uuid.uuid4().hex[:8]}")

    def bare(self) -> System:
        return Bare(self.url)

    def faststream(self) -> System:
        return FastStreamOnRabbit(self.url)
