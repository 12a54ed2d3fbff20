"""The channel that everything is published on, with confirmations."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Sequence

from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import DeliveryError, PublishError

from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.messaging.backends.rabbitmq.link import Link
from pynomaly_tasks.messaging.plain_broker import LaneGone

#: Exchange (empty: the default one), routing key and bytes.
Thing = tuple[str, str, bytes]


class Outbox:
    """Publishes; many callers at once share the channel and wait for their own."""

    def __init__(self, link: Link) -> None:
        """Nothing is opened yet."""
        self._link = link
        self._opening = asyncio.Lock()
        self._channel: AbstractChannel | None = None
        self._numbers = itertools.count()
        self._session = uuid.uuid4().hex[:8]

    async def publish(self, things: Sequence[Thing], *, is_lasting: bool = True) -> None:
        """In order; returns when all are confirmed. Raises LaneGone where no queue takes one of them."""
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                self._channel = await self._link.channel()
            channel = self._channel
        mode = DeliveryMode.PERSISTENT if is_lasting else DeliveryMode.NOT_PERSISTENT
        async with self._link.answered():
            underlay = await channel.get_underlay_channel()
            answers = await asyncio.gather(
                *(
                    underlay.basic_publish(
                        data,
                        exchange=exchange,
                        routing_key=key,
                        mandatory=True,
                        properties=Message(b"", message_id=self._new_name(), delivery_mode=mode).properties,
                    )
                    for exchange, key, data in things
                ),
                return_exceptions=True,
            )
            errors = [answer for answer in answers if isinstance(answer, BaseException)]
            for error in sorted(errors, key=lambda error: isinstance(error, PublishError)):
                if isinstance(error, PublishError):
                    raise LaneGone(str(error)) from error
                if isinstance(error, DeliveryError):
                    raise BrokerUnavailable(
                        "RabbitMQ refused a message: its queue is as long as a policy lets it be (max-length), or too "
                        "few of its servers are there"
                    ) from error
                raise error

    def _new_name(self) -> str:
        """Of an item, for `browse`: later ones of this process come later."""
        return f"{time.time_ns():020d}-{next(self._numbers):09d}-{self._session}"
