"""The catalog as this process knows it: read again at most every second, and not with each send."""

from __future__ import annotations

import asyncio
import time

from pynomaly_tasks.messaging.backend import Catalog, CatalogStale
from pynomaly_tasks.messaging.plain_broker import PlainBroker

#: How long a change of another process may stay unseen.
FRESH_S = 1.0


class CatalogCache:
    """Reads a broker's catalog, and knows when it did."""

    def __init__(self, broker: PlainBroker) -> None:
        self._broker = broker
        self._known: Catalog | None = None
        self._read_at = 0.0
        self._reading = asyncio.Lock()

    async def read(self) -> Catalog:
        """From the broker, now."""
        read_at = time.monotonic()
        catalog = await self._broker.read_catalog()
        self._known, self._read_at = catalog, read_at
        return catalog

    async def recent(self) -> Catalog:
        """Not older than `FRESH_S`."""
        if (known := self._recent()) is not None:
            return known
        async with self._reading:
            return self._recent() or await self.read()

    def _recent(self) -> Catalog | None:
        return self._known if time.monotonic() - self._read_at <= FRESH_S else None

    async def check(self, version: int) -> Catalog:
        """The recent one. Raises CatalogStale unless it has this version."""
        catalog = await self.recent()
        if catalog.version != version:
            raise CatalogStale
        return catalog

    async def declare(self, name: str, record: bytes) -> bytes:
        """As the broker's; this process sees it at once."""
        standing = await self._broker.declare(name, record)
        if self._known is None or self._known.records.get(name) != standing:
            self.drop()
        return standing

    async def forget(self, name: str) -> bool:
        """As the broker's; this process sees it at once."""
        self.drop()
        return await self._broker.forget(name)

    def drop(self) -> None:
        """Read it again before it is used again."""
        self._known = None
