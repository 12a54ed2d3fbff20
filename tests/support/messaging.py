"""Brokers under test: each gives connections, as several processes would have them."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pynomaly_tasks.messaging import Backend, Delivery, QueueManager, build_backend
from pynomaly_tasks.messaging.backend import Entry
from pynomaly_tasks.messaging.backends.memory.backend import MemoryBackend
from pynomaly_tasks.messaging.backends.memory.broker import MemoryBroker
from pynomaly_tasks.messaging.capabilities import Support
from pynomaly_tasks.messaging.emulation import EmulatedBackend
from pynomaly_tasks.messaging.emulation.catalog import FRESH_S
from support.kafka_topics import unique_name
from support.plain_memory import PlainMemoryBroker, PlainMemoryServer

T = TypeVar("T")


class BrokerUnderTest(ABC):
    """One broker."""

    @abstractmethod
    def backend(self) -> Backend:
        """A connection as another process would have it."""

    def manager(self, **options: Any) -> QueueManager:
        """The queues over a connection of its own."""
        return QueueManager(self.backend(), **options)


class MemoryUnderTest(BrokerUnderTest):
    def __init__(self) -> None:
        self.shared = MemoryBroker()

    def backend(self) -> Backend:
        return MemoryBackend(self.shared)


class PlainMemoryUnderTest(BrokerUnderTest):
    """The emulation layer, over as little as a broker can do."""

    def __init__(self) -> None:
        self.server = PlainMemoryServer()

    def backend(self) -> Backend:
        return EmulatedBackend(PlainMemoryBroker(self.server))


class ServerUnderTest(BrokerUnderTest):
    """A namespace of its own on a server, behind the backend of that name."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self.namespace = unique_name("test")

    def backend(self) -> Backend:
        return build_backend(self.name, self.url, namespace=self.namespace)


def is_emulated(broker: BrokerUnderTest) -> bool:
    """Whether a process knows only by itself what it sent and counted, and sees others' changes within a second."""
    return isinstance(broker.backend(), EmulatedBackend)


def known(broker: BrokerUnderTest, n: int) -> int | None:
    """What a measure says of how many there are: None where the broker does not know."""
    return None if broker.backend().capabilities.depth is Support.ABSENT else n


def in_order(broker: BrokerUnderTest, numbers: list[int]) -> list[int]:
    """As they came; sorted where the broker promises no order."""
    return numbers if broker.backend().capabilities.order is not Support.ABSENT else sorted(numbers)


def largest_payload_bytes(broker: BrokerUnderTest) -> int:
    """What a payload may have, as JSON: the codec's limit, or what the broker takes less the envelope."""
    backend = broker.backend()
    limit = backend.traits.max_item_bytes if isinstance(backend, EmulatedBackend) else None
    return 1_048_576 if limit is None else min(1_048_576, limit - 500)


def too_large_bytes(broker: BrokerUnderTest) -> list[int]:
    """Sizes past what the broker takes, where it takes less than anybody."""
    backend = broker.backend()
    limit = backend.traits.max_item_bytes if isinstance(backend, EmulatedBackend) else None
    return [] if limit is None else [limit, 2 * limit]


async def changes_are_seen(broker: BrokerUnderTest) -> None:
    """What one process declared is known to the others: at once, or, where the catalog is looked at now and then, soon."""
    if is_emulated(broker):
        await asyncio.sleep(FRESH_S + 0.05)


async def put_raw(manager: QueueManager, queue: str, body: bytes) -> None:
    """Bytes that no codec of ours wrote."""
    version = (await manager.backend.read_catalog()).version
    await manager.backend.put([Entry(channel=queue, message_id="raw", body=body)], catalog_version=version)


async def payloads(manager: QueueManager, queue: str, *, wait_s: float = 0.0, ack: bool = True) -> list[Any]:
    """Everything that can be received now, acknowledged."""
    found = []
    while deliveries := await manager.receive(queue, max_messages=7, wait_s=wait_s):
        for delivery in deliveries:
            found.append(delivery.message.payload)
            if ack:
                await delivery.ack()
    return found


async def one(manager: QueueManager, queue: str, *, wait_s: float = 5.0, **options: Any) -> Delivery:
    """The next delivery, waited for."""
    (delivery,) = await manager.receive(queue, wait_s=wait_s, **options)
    return delivery


async def until(predicate: Callable[[], Awaitable[T]], what: str, timeout_s: float = 10.0) -> T:
    """The predicate's first true value."""
    end = time.monotonic() + timeout_s
    while True:
        if value := await predicate():
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout_s:g} s for {what}; the last value seen was {value!r}")
        await asyncio.sleep(0.01)
