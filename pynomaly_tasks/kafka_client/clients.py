"""aiokafka's clients, which can be closed at any moment."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

_CLOSE_TIMEOUT_S = 1.0


def build_admin(**options: Any) -> AIOKafkaAdminClient:
    """An admin client, not started; it takes the options of aiokafka's."""
    return AIOKafkaAdminClient(**options)


def build_consumer(**options: Any) -> AIOKafkaConsumer:
    """A consumer, not started; it takes the options of aiokafka's."""
    return AIOKafkaConsumer(**options)


def build_producer(**options: Any) -> AIOKafkaProducer:
    """A producer, not started; it takes the options of aiokafka's."""
    return AIOKafkaProducer(**options)


async def close_client(client: Any) -> None:
    """Close what a client holds, also where the other side reads no more. Within about a second."""
    writers = [connection._writer for connection in client._conns.values()]
    transports = [writer.transport for writer in writers if writer is not None]
    with suppress(TimeoutError, KafkaError, OSError):
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await client.close()
    for transport in transports:
        transport.abort()
