"""How many items of a lane are held over all processes: RabbitMQ tells clients only what waits, so each asks the others.

A question goes to all through a fanout exchange; the consumers of one queue without messages are who must answer.
One that is paused is not waited for, and what it holds is not counted until the server gives it to others.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress

import orjson
from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from pynomaly_tasks.errors import BrokerUnavailable, MessagingClosed
from pynomaly_tasks.messaging.backends.rabbitmq.link import Link
from pynomaly_tasks.messaging.plain_broker import LaneGone

_ANSWER_S = 0.3

#: To an exchange (empty: the default one), under a routing key.
Publish = Callable[[str, str, bytes], Awaitable[None]]


class Census:
    """This process among all of one namespace."""

    def __init__(self, link: Link, name: str, publish: Publish, count_held: Callable[[str], int]) -> None:
        """``count_held``: what this process holds of a lane; ``name`` begins the server's names."""
        self._link = link
        self._exchange = f"{name}/all"
        self._members = f"{name}/members"
        self._publish = publish
        self._count_held = count_held
        self._own = ""
        self._channel: AbstractChannel | None = None
        self._joining = asyncio.Lock()
        self._answers: dict[str, asyncio.Queue[int]] = {}

    async def join(self) -> AbstractChannel:
        """Be asked, from now on; again after a connection broke."""
        async with self._joining:
            if self._channel is not None and not self._channel.is_closed:
                return self._channel
            channel = await self._link.channel()
            own = f"{self._members}/{uuid.uuid4().hex}"
            classic = {"x-queue-type": "classic"}
            async with self._link.answered():
                exchange = await channel.declare_exchange(self._exchange, ExchangeType.FANOUT, durable=True)
                queue = await channel.declare_queue(own, exclusive=True, arguments={**classic})
                await queue.bind(exchange)
                await queue.consume(self._hear, no_ack=True)
                members = await channel.declare_queue(self._members, durable=True, arguments={**classic})
                await members.consume(self._hear, no_ack=True)
            self._own, self._channel = own, channel
            return channel

    async def held(self, lane: str) -> int:
        """By all processes together."""
        channel = await self.join()
        async with self._link.answered():
            members = await channel.declare_queue(self._members, passive=True)
        n_others = (members.declaration_result.consumer_count or 1) - 1
        n = self._count_held(lane)
        if n_others < 1:
            return n
        question = uuid.uuid4().hex
        answers = self._answers[question] = asyncio.Queue()
        try:
            asked = orjson.dumps({"id": question, "lane": lane, "reply_to": self._own})
            await self._publish(self._exchange, "", asked)
            with suppress(TimeoutError):
                async with asyncio.timeout(_ANSWER_S):
                    for _ in range(n_others):
                        n += await answers.get()
        finally:
            del self._answers[question]
        return n

    async def _hear(self, message: AbstractIncomingMessage) -> None:
        said = orjson.loads(message.body)
        if "held" in said:
            if said["id"] in self._answers:
                self._answers[said["id"]].put_nowait(said["held"])
        elif said["reply_to"] != self._own:
            answer = orjson.dumps({"id": said["id"], "held": self._count_held(said["lane"])})
            # Who asked may be gone by now.
            with suppress(BrokerUnavailable, LaneGone, MessagingClosed):
                await self._publish("", said["reply_to"], answer)
