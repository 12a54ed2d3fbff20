"""What memory backends of one process share: the channels, the catalog, the notes."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pynomaly_tasks.messaging.backend import Entry, Note
from pynomaly_tasks.messaging.backends.memory.records import MemoryTasks

#: More entries of a heap than this may be gone or ended, before they are thrown out.
_MAX_GONE = 1_000


@dataclass(slots=True)
class Item:
    """One entry."""

    message_id: str
    body: bytes
    priority: int
    expires_at: float | None
    put_at: float
    key: str = ""
    rank: tuple[int, int] = (0, 0)  #: 255 - priority, then the order within it
    n_deliveries: int = 0
    fence: str = ""
    lease_until: float | None = None  #: when it waits again; None: it waits

    @property
    def is_held(self) -> bool:
        """Under a lease."""
        return self.lease_until is not None and self.fence != ""

    @property
    def is_paused(self) -> bool:
        """Given back, and not due yet."""
        return self.lease_until is not None and self.fence == ""


@dataclass(slots=True)
class Channel:
    """One channel."""

    items: dict[str, Item] = field(default_factory=dict)  #: waiting and held, by key
    waiting: list[tuple[tuple[int, int], str]] = field(default_factory=list)  #: heap; some are gone
    leases: list[tuple[float, str]] = field(default_factory=list)  #: heap; some have ended
    delayed: list[tuple[float, int, Item]] = field(default_factory=list)  #: heap
    windows: dict[str, float] = field(default_factory=dict)  #: deduplication key -> end; in order of ends
    counts: Counter[str] = field(default_factory=Counter)
    handled_s: float = 0.0
    n_put: int = 0
    waiters: set[asyncio.Future[None]] = field(default_factory=set)

    @property
    def depth(self) -> int:
        """Waiting, delayed and held."""
        return len(self.items) + len(self.delayed)

    def enqueue(self, item: Item) -> None:
        """Let a new one wait, behind all of its priority."""
        if len(self.waiting) > 2 * len(self.items) + _MAX_GONE:
            self.waiting = [(each.rank, key) for key, each in self.items.items() if each.lease_until is None]
            heapq.heapify(self.waiting)
        self.n_put += 1
        item.rank = (255 - item.priority, self.n_put)
        item.key = str(self.n_put)
        self.items[item.key] = item
        heapq.heappush(self.waiting, (item.rank, item.key))
        self.wake(1)

    def lease(self, item: Item, until: float) -> None:
        """Let it wait again then."""
        if len(self.leases) > 2 * len(self.items) + _MAX_GONE:
            ends = ((each.lease_until, key) for key, each in self.items.items())
            self.leases = [(end, key) for end, key in ends if end is not None]
            heapq.heapify(self.leases)
        item.lease_until = until
        heapq.heappush(self.leases, (until, item.key))

    def wake(self, n: int) -> None:
        """Have ``n`` consumers that wait look again."""
        for waiter in [waiter for waiter in self.waiters if not waiter.done()][:n]:
            waiter.set_result(None)


class MemoryBroker:
    """What several backends of one process share, as they would share a server."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.channels: dict[str, Channel] = {}
        self.records: dict[str, bytes] = {}
        self.version = 0
        self.notes: dict[str, tuple[float, set[str]]] = {}
        self.tasks = MemoryTasks(clock())
        self.n_fences = 0

    def channel(self, name: str) -> Channel:
        """The channel, with everything due or expired moved to where it waits."""
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = Channel()
        now = self.clock()
        while channel.delayed and channel.delayed[0][0] <= now:
            channel.enqueue(heapq.heappop(channel.delayed)[2])
        while channel.leases and channel.leases[0][0] <= now:
            until, key = heapq.heappop(channel.leases)
            item = channel.items.get(key)
            if item is not None and item.lease_until == until:
                item.lease_until = None
                heapq.heappush(channel.waiting, (item.rank, key))
        return channel

    def put(self, entry: Entry) -> None:
        """Put without asking for size or window."""
        channel, now = self.channel(entry.channel), self.clock()
        item = Item(
            message_id=entry.message_id,
            body=entry.body,
            priority=entry.priority,
            expires_at=None if entry.ttl_s is None else now + entry.ttl_s,
            put_at=now,
        )
        channel.counts["sent"] += 1
        if entry.delay_s > 0:
            channel.n_put += 1
            heapq.heappush(channel.delayed, (now + entry.delay_s, channel.n_put, item))
            channel.wake(1)  # whoever waits must know when it falls due
        else:
            channel.enqueue(item)

    def note(self, note: Note) -> None:
        """Keep the member, and forget the sets that ended."""
        now = self.clock()
        until, members = self.notes.pop(note.key, (0.0, set()))
        # At the end, so that those that end first come first.
        self.notes[note.key] = (now + note.keep_s, (members if until > now else set()) | {note.member})
        for key in _ended_first(self.notes, now):
            del self.notes[key]


def _ended_first(notes: Mapping[str, tuple[float, set[str]]], now: float) -> list[str]:
    return [key for key, _ in itertools.takewhile(lambda each: each[1][0] <= now, notes.items())]
