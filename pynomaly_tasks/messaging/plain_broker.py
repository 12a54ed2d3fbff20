"""What a broker must do that keeps items and hands them out, and little else.

`EmulatedBackend` makes a `Backend` of it: expiry, delay, priorities, deduplication, sizes, counting and what
follows from a settlement are done there, once for all such brokers. A broker that can do one of these by
itself says so in its capabilities (``native``), is then asked to, and nothing is done twice.

It keeps *lanes*: places that items are appended to and taken from. A channel is one lane or several. The
bytes of an item are opaque to the broker. Every method but `open` and `close` raises MessagingClosed when
it is not open, and BrokerUnavailable within the timeout when the broker gives no answer.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from pynomaly_tasks.errors import PynomalyError
from pynomaly_tasks.messaging.backend import Catalog, Note
from pynomaly_tasks.messaging.capabilities import Capabilities
from pynomaly_tasks.messaging.dead_letters import Reason


class LaneGone(PynomalyError):
    """There is no such lane in the broker, and nothing was done: somebody erased it after it was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a broker does beyond the least; decides what is emulated."""

    longest_delay_s: float = 0.0  #: that it delays an item by itself, and not before it; 0: it cannot
    delays_in_place: bool = (
        False  #: a delayed item lies in the lane that it is due in, and blocks nobody there
    )
    has_priorities: bool = False  #: it hands out the items of one lane by their priority, 0 to 255
    release_keeps_place: bool = False  #: what is released comes before what was appended later
    release_counts: bool = True  #: what is released comes with a higher `Taken.n_earlier`
    max_item_bytes: int | None = None  #: that it takes; of what is sent, and dead letters are a third larger


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What is appended."""

    lane: str
    data: bytes
    priority: int = 0  #: 0 to 255, higher first; always 0 unless `Traits.has_priorities`
    delay_s: float = 0.0  #: never more than `Traits.longest_delay_s`


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """An item that is ours until it is acknowledged, released, or the lease ends."""

    lane: str
    token: Hashable  #: the broker's own handle of this delivery
    data: bytes
    n_earlier: int  #: how often the broker handed this very item out before, 0 the first time


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneCount:
    """What lies in a lane now, over all processes."""

    waiting: int = 0
    held: int = 0
    delayed: int = 0  #: by the broker itself, and not among those that wait
    oldest_age_s: float = 0.0  #: 0 where the broker does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """That the broker by itself took an item out of its lane, and why."""

    reason: Reason
    why: str  #: for people
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Lying:
    """An item looked at without taking it."""

    key: str  #: the broker's name for it, good for `browse` and `remove`
    data: bytes
    drop: Drop | None = (
        None  #: it was put among the dead letters by the broker, as it was appended to its lane
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """An item that was appended some time ago, whatever became of it."""

    key: str
    data: bytes
    at: datetime  #: when the broker took it
    is_settled: bool


class PlainBroker(Protocol):
    """One broker, through one client library."""

    name: str
    capabilities: Capabilities  #: of the backend that `EmulatedBackend` makes of it
    traits: Traits

    async def open(self) -> None:
        """Connect. Raises BrokerUnavailable within the connect timeout."""

    async def close(self) -> None:
        """Give the connections back. What is held comes again, at once or when its lease ends."""

    async def ping(self) -> None:
        """Raise BrokerUnavailable unless the broker answers."""

    async def read_catalog(self) -> Catalog:
        """All records; the version changes whenever one of them does."""

    async def declare(self, name: str, record: bytes) -> bytes:
        """Keep the record unless there is one by that name; return the one that stands."""

    async def forget(self, name: str) -> bool:
        """Drop a record; whether there was one."""

    async def make_lane(self, lane: str) -> None:
        """Make it unless it is there. Called before the first use of a lane in this process."""

    async def erase_lane(self, lane: str) -> None:
        """Remove the lane with all that is in it; that there is none is fine."""

    async def append(self, items: Sequence[Item]) -> None:
        """Put the items at the ends of their lanes, in order; returns when the broker has them for good.

        Raises LaneGone where it can tell that a lane is not there.
        """

    async def take(
        self, lanes: Sequence[str], *, max_items: int, lease_s: float, wait_s: float
    ) -> list[Taken]:
        """Up to ``max_items`` in order, those of an earlier lane first; waits for the first one in any lane.

        Raises LaneGone where it can tell that a lane is not there.
        """

    async def acknowledge(self, taken: Sequence[Taken]) -> list[bool]:
        """They are done; False where the lease ended and the item is not ours any more."""

    async def release(self, taken: Taken) -> bool:
        """Hand it out again now, in its old place where the broker can; as `acknowledge` when it is not ours."""

    async def extend(self, taken: Sequence[Taken], *, lease_s: float) -> list[bool]:
        """Let the leases end ``lease_s`` from now; False where it is not ours any more."""

    async def purge(self, lane: str) -> int:
        """Remove what waits, not what is held; how many."""

    async def count(self, lane: str) -> LaneCount | None:
        """What lies there; None where the capability depth is absent, but not of lanes of dead letters."""

    async def browse(self, lane: str, *, after: str, limit: int) -> list[Lying]:
        """Items that nobody holds, in order, from the one after the key ``after`` on (empty: the first)."""

    async def find(self, lane: str, key: str) -> Lying | None:
        """One item that nobody holds, by its key; None for a key that is none."""

    async def remove(self, lane: str, key: str) -> bool:
        """Remove one item that nobody holds; whether it was there."""

    async def add_note(self, note: Note) -> None:
        """Keep a member of a small set. Only called where the capability confirmations is not absent."""

    async def read_notes(self, key: str) -> frozenset[str]:
        """The members noted under the key."""


@runtime_checkable
class TakesLowest(Protocol):
    """A `PlainBroker` with `Traits.has_priorities` that can also take from the other end of a lane."""

    async def take_lowest(self, lane: str, *, max_items: int, lease_s: float) -> list[Taken]:
        """As `take` without a wait, from the lowest priority on, in order within it."""


@runtime_checkable
class KeepsSettled(Protocol):
    """A `PlainBroker` whose capability replay is not absent."""

    async def read_back(self, lane: str, *, since: datetime | int, after: str, limit: int) -> list[Past]:
        """Items of the lane from a time or an offset on, in order; from the one after the key ``after`` on."""
