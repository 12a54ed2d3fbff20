"""What memory backends of one process share: the channels, the catalog, the notes."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pynomaly_tasks.messaging.backend import Entry, Note
from pynomaly_tasks.messaging.backends.memory_records import MemoryTasks


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
    waiting: list[tuple[tuple[int, int], str]] = field(default_factory=list)  #: heap
    leases: list[tuple[float, str]] = field(default_factory=list)  #: heap; old ends stay until they pass
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
            self.enqueue(channel, heapq.heappop(channel.delayed)[2])
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
            self.enqueue(channel, item)

    def enqueue(self, channel: Channel, item: Item) -> None:
        """Let it wait, behind all of its priority."""
        channel.n_put += 1
        item.rank = (255 - item.priority, channel.n_put)
        item.key = str(channel.n_put)
        channel.items[item.key] = item
        heapq.heappush(channel.waiting, (item.rank, item.key))
        channel.wake(1)

    def note(self, note: Note) -> None:
        """Keep the member, and forget the sets that ended."""
        now = self.clock()
        self.notes = {key: value for key, value in self.notes.items() if value[0] > now}
        _, members = self.notes.get(note.key, (0.0, set()))
        self.notes[note.key] = (now + note.keep_s, members | {note.member})
