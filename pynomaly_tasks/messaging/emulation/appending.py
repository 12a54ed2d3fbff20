"""From entries to items in the lanes where they belong, made where they are not there."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pynomaly_tasks.messaging.backend import Entry
from pynomaly_tasks.messaging.emulation.counting import Tally
from pynomaly_tasks.messaging.emulation.head import Head
from pynomaly_tasks.messaging.emulation.lanes import LaneBook
from pynomaly_tasks.messaging.plain_broker import Item, PlainBroker


class Appender:
    """Every write of an item goes through here."""

    def __init__(self, broker: PlainBroker, lanes: LaneBook, tally: Tally) -> None:
        self._broker = broker
        self._lanes = lanes
        self._tally = tally

    async def append(self, entries: Sequence[Entry], catalog_version: int | None = None) -> None:
        """Put them, whatever the sizes of their channels. Raises CatalogStale where a version is given."""
        now = time.time()
        items = [self._lanes.place(entry.channel, _head(entry, now), entry.body, now) for entry in entries]
        await self._append(items, catalog_version)
        for entry in entries:
            self._tally.add(entry.channel, "sent")

    async def move(self, channel: str, moved: Sequence[tuple[Head, bytes]]) -> None:
        """Append what was taken from the channel to the lanes where it belongs now."""
        now = time.time()
        await self._append([self._lanes.place(channel, head, body, now) for head, body in moved])

    async def _append(self, items: Sequence[Item], catalog_version: int | None = None) -> None:
        if items:
            lanes = list(dict.fromkeys(item.lane for item in items))
            await self._lanes.use(lanes, lambda: self._broker.append(items), catalog_version)


def _head(entry: Entry, now: float) -> Head:
    return Head(
        message_id=entry.message_id,
        priority=entry.priority,
        sent_at=now,
        due_at=now + entry.delay_s if entry.delay_s > 0 else 0.0,
        expires_at=now + entry.ttl_s if entry.ttl_s is not None else 0.0,
    )
