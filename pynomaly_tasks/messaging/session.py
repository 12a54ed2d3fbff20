"""What the parts of a manager share: the backend, the codec, and the catalog as it was last read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from pynomaly_tasks.errors import BrokerUnavailable, InvalidInput, MessagingClosed, NotFound, Unavailable
from pynomaly_tasks.messaging.backend import Backend, CatalogStale, Entry
from pynomaly_tasks.messaging.codec import Codec
from pynomaly_tasks.messaging.message import Message
from pynomaly_tasks.messaging.options import Kind, QueueOptions
from pynomaly_tasks.messaging.topology import Topology

T = TypeVar("T")

#: The catalog changes when queues and subscriptions do; this often within one call means a fault.
_MAX_READS = 50
#: That closing waits for those who waited, to let go of what they had begun.
_LET_GO_S = 1.0


class Session:
    """Acts on the newest catalog, and reads it only when the backend says that it has changed."""

    def __init__(self, backend: Backend, codec: Codec) -> None:
        self.backend = backend
        self.codec = codec
        self._topology: Topology | None = None
        self._is_closed = False
        self._waiting: set[asyncio.Timeout] = set()
        self._nobody_waits = asyncio.Event()

    async def open(self) -> None:
        """Open the backend."""
        await self.backend.open()
        self._is_closed = False

    async def close(self) -> None:
        """End the calls that wait, then the backend."""
        self._is_closed = True
        for call in self._waiting:
            call.reschedule(0.0)
        if self._waiting:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LET_GO_S):
                    await self._nobody_waits.wait()
        await self.backend.close()

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Within the block the call may wait for long: closing ends it. Raises MessagingClosed then."""
        try:
            async with asyncio.timeout(None) as call:
                self._waiting.add(call)
                self._nobody_waits.clear()
                try:
                    yield
                finally:
                    self._waiting.discard(call)
                    if not self._waiting:
                        self._nobody_waits.set()
        except (TimeoutError, Unavailable) as error:
            if not self._is_closed:
                raise
            raise MessagingClosed(
                f"the {self.backend.name} backend was closed while a call waited"
            ) from error

    async def topology(self, *, fresh: bool = False) -> Topology:
        """As last read; ``fresh`` reads it now."""
        if self._topology is None or fresh:
            self._topology = Topology.read(await self.backend.read_catalog())
        return self._topology

    async def act(self, action: Callable[[Topology], Awaitable[T]]) -> T:
        """Do what depends on the catalog, on the newest one.

        The action hands the topology's version to the backend, which refuses an old one. What the
        action itself refuses, it may refuse by an old topology, so that is looked at once more.
        """
        fresh = False
        for _ in range(_MAX_READS):
            was_known = self._topology is not None and not fresh
            topology = await self.topology(fresh=fresh)
            try:
                return await action(topology)
            except CatalogStale:
                fresh = True
            except (NotFound, InvalidInput):
                if not was_known:
                    raise
                fresh = True
        raise BrokerUnavailable(
            f"the catalog of queues changed {_MAX_READS} times during one call; try again"
        )

    def entry(self, queue: str, options: QueueOptions, message: Message, body: bytes) -> Entry:
        """What is put into a queue for a message, as the queue's options say."""
        ttl_s = options.ttl_s if message.ttl_s is None else message.ttl_s
        delay_s = options.delay_s if message.delay_s is None else message.delay_s
        return Entry(
            channel=queue,
            message_id=message.id,
            body=body,
            priority=message.priority if options.kind is Kind.PRIORITY else 0,
            delay_s=delay_s,
            ttl_s=ttl_s,
            max_size=options.max_size,
        )
