"""Which lanes a channel has.

| lane | holds |
|---|---|
| ``q`` | what is due, of priority 0 (of every priority where the broker has them) |
| ``q!p7`` | what is due, of priority 7 |
| ``q!f7`` | what was held, and was given back: taken before ``q!p7`` |
| ``q!d64`` | what is not due for 64 s or longer: each item lies there for 64 s (see `delays`) |
| ``q!d0`` | what is due within a second; of a broker that delays by itself, all that is not due |

All but the first are made when they are first needed, and noted in the catalog, so that every process
knows which to take from: another process sees a new lane within a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.messaging.backend import Catalog, CatalogStale
from pynomaly_tasks.messaging.capabilities import Support
from pynomaly_tasks.messaging.emulation.catalog import CatalogCache
from pynomaly_tasks.messaging.emulation.head import Head
from pynomaly_tasks.messaging.plain_broker import Item, LaneGone, PlainBroker

T = TypeVar("T")

#: How long an item lies in each delay lane. Within a lane what was put first is due first, so a head
#: that is not due never stands before one that is. Of the last, shortest one all can be held at once.
STAYS_S = (0, *(4**n for n in range(13)))


@dataclass(frozen=True, slots=True)
class Lanes:
    """The lanes of a channel that are in use."""

    main: tuple[str, ...]  #: the best first
    delay: tuple[str, ...] = ()

    def lowest_first(self) -> tuple[str, ...]:
        """The main lanes from the lowest priority on; within one, what was held before comes first as ever."""
        return tuple(sorted(self.main, key=lambda lane: (_priority_of(lane), split_lane(lane)[1][:1] != "f")))

    @property
    def all(self) -> tuple[str, ...]:
        """Every one."""
        return self.main + self.delay


def lanes_of(channel: str, catalog: Catalog) -> Lanes:
    """As the catalog knows them."""
    prefix = f"lane/{channel}/"
    marks = [name.removeprefix(prefix) for name in catalog.records if name.startswith(prefix)]
    ranked = [(0, 1, channel)]
    ranked += [
        (-int(mark[1:]), "fp".index(mark[0]), f"{channel}!{mark}") for mark in marks if mark[0] in "fp"
    ]
    delay = sorted((int(mark[1:]), f"{channel}!{mark}") for mark in marks if mark[0] == "d")
    return Lanes(tuple(lane for _, _, lane in sorted(ranked)), tuple(lane for _, lane in delay))


class LaneBook:
    """Finds the lane for an item, and makes lanes before they are used."""

    def __init__(self, broker: PlainBroker, catalog: CatalogCache) -> None:
        self._broker = broker
        self._catalog = catalog
        self._made: set[str] = set()
        self._making = asyncio.Lock()

    def place(self, channel: str, head: Head, body: bytes, now: float) -> Item:
        """The item, for the lane that it belongs to now."""
        traits = self._broker.traits
        wait_s = head.due_at - now
        if wait_s > 0 and traits.longest_delay_s:
            delay_s = min(wait_s, traits.longest_delay_s)
            data = replace(head, until_at=now + delay_s).wrap(body)
            if traits.delays_in_place:
                priority = head.priority if traits.has_priorities else 0
                return Item(lane=channel, data=data, priority=priority, delay_s=delay_s)
            return Item(lane=f"{channel}!d0", data=data, delay_s=delay_s)
        if wait_s > 0:
            stay_s = max(stay_s for stay_s in STAYS_S if stay_s <= wait_s)
            head = replace(head, until_at=now + stay_s if stay_s else head.due_at)
            return Item(lane=f"{channel}!d{stay_s}", data=head.wrap(body))
        if traits.has_priorities:
            return Item(lane=channel, data=head.wrap(body), priority=head.priority)
        if head.is_front and self._broker.capabilities.order is not Support.ABSENT:
            return Item(lane=f"{channel}!f{head.priority}", data=head.wrap(body))
        return Item(lane=f"{channel}!p{head.priority}" if head.priority else channel, data=head.wrap(body))

    async def make(self, lanes: Iterable[str]) -> None:
        """Have them in the broker and in the catalog."""
        for lane in lanes:
            if lane in self._made:
                continue
            # One at a time: those who need the same new lane go on in the order in which they came.
            async with self._making:
                if lane in self._made:
                    continue
                await self._broker.make_lane(lane)
                channel, mark = split_lane(lane)
                if mark:
                    await self._catalog.declare(f"lane/{channel}/{mark}", b"1")
                self._made.add(lane)

    async def use(
        self, lanes: Collection[str], action: Callable[[], Awaitable[T]], catalog_version: int | None = None
    ) -> T:
        """Make the lanes, and do it; where somebody removed one, once more with lanes made anew.

        Raises CatalogStale where a version is given and the catalog has another by then.
        """
        try:
            await self.make(lanes)
            return await action()
        except LaneGone:
            channels = {split_lane(lane)[0] for lane in lanes}
            for channel in channels:
                self.forget(channel)
            if catalog_version is not None and (await self._catalog.read()).version != catalog_version:
                raise CatalogStale from None
        try:
            await self.make(lanes)
            return await action()
        except LaneGone as error:
            raise BrokerUnavailable(
                f"a place for the messages of {', '.join(sorted(channels))} was removed while it was used: {error}"
            ) from error

    def forget(self, channel: str) -> None:
        """Look again whether its lanes are there before they are used."""
        self._made = {lane for lane in self._made if split_lane(lane)[0] != channel}

    async def erase(self, channel: str) -> None:
        """Remove all of the channel's lanes."""
        for lane in lanes_of(channel, await self._catalog.read()).all:
            _, mark = split_lane(lane)
            if mark:
                await self._catalog.forget(f"lane/{channel}/{mark}")
            await self._broker.erase_lane(lane)
        self.forget(channel)


def split_lane(lane: str) -> tuple[str, str]:
    """The channel, and the mark of a lane beside its first one: ``q!dead!d4`` is ``q!dead`` and ``d4``."""
    channel, _, mark = lane.rpartition("!")
    return (channel, mark) if channel and mark[1:].isdecimal() and mark[0] in "pfd" else (lane, "")


def _priority_of(lane: str) -> int:
    return int(split_lane(lane)[1][1:] or 0)
