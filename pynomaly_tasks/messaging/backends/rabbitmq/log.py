"""A log in RabbitMQ that every process reads and only adds to: a stream queue.

It outlives restarts and is replicated as the server's streams are. Reading begins at the stream's last
chunk, which is there already: so a reader knows the end of the log without having to wait for more.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

from aio_pika.abc import AbstractChannel
from aiormq.abc import DeliveredMessage

from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.messaging.backends.rabbitmq.link import Link
from pynomaly_tasks.messaging.plain_broker import LaneGone

_PREFETCH = 2_000
_ACK_EVERY = 500

#: A record, and its place in the log.
Records = list[tuple[int, bytes]]
Publish = Callable[[str, bytes], Awaitable[None]]


class StreamLog:
    """One stream, as far as this process has read it."""

    def __init__(self, link: Link, name: str, publish: Publish, *, keep_s: float | None = None) -> None:
        """``link``: to read over; ``keep_s``: older records may be dropped, None: all are kept."""
        self._link = link
        self._name = name
        self._publish = publish
        self._arguments: dict[str, str | int] = {"x-queue-type": "stream"}
        if keep_s is not None:
            self._arguments["x-max-age"] = f"{int(keep_s)}s"
            self._arguments["x-stream-max-segment-size-bytes"] = 10_000_000
        self._channel: AbstractChannel | None = None
        self._turn = asyncio.Lock()
        self._next = 0

    async def append(self, record: bytes) -> None:
        """Returns when the server has it for good."""
        async with self._turn:
            await self._ready()
        await self._publish(self._name, record)

    async def read_new(self) -> Records:
        """What was added since the last call."""
        async with self._turn:
            channel = await self._ready()
            found = dict(await self._read(channel, "last", None))
            end = max(found, default=-1)
            if found and min(found) > self._next:
                found |= dict(await self._read(channel, self._next, end))
            new = sorted((at, record) for at, record in found.items() if at >= self._next)
            self._next = max(self._next, end + 1)
            return [(at, record) for at, record in new if record]

    async def _ready(self) -> AbstractChannel:
        channel = self._channel
        if channel is None or channel.is_closed:
            channel = await self._link.channel()
            async with self._link.answered():
                await channel.declare_queue(self._name, durable=True, arguments={**self._arguments})
                await channel.set_qos(prefetch_count=_PREFETCH)
            if not self._next:
                # Empty and of no meaning: so the log has a last chunk. One a process, because the server
                # does not say whether there is anything in a stream.
                await self._publish(self._name, b"")
            self._channel = channel
        return channel

    async def _read(self, channel: AbstractChannel, start: int | str, end: int | None) -> Records:
        """From ``start`` on: up to ``end``, or (None) all that comes with the first of it."""
        found: Records = []
        enough = asyncio.Event()
        plain = await channel.get_underlay_channel()

        async def come(message: DeliveredMessage) -> None:
            headers = message.header.properties.headers or {}
            at = int(str(headers["x-stream-offset"]))
            found.append((at, message.body))
            if end is None or at >= end:
                enough.set()
            if len(found) % _ACK_EVERY == 0:
                await plain.basic_ack(message.delivery_tag or 0, multiple=True, wait=False)

        try:
            async with self._link.answered():
                # Below aio-pika, where deliveries come in the server's order: all before the cancel's answer.
                tag = uuid.uuid4().hex
                await plain.basic_consume(
                    self._name, come, arguments={"x-stream-offset": start}, consumer_tag=tag
                )
                await enough.wait()
                await plain.basic_cancel(tag)
        except LaneGone as error:
            raise BrokerUnavailable(f"somebody deleted the stream {self._name}") from error
        return found
