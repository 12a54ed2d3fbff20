"""Queues in the memory of one process: for tests, and for programs that need no more.

| capability | how |
|---|---|
| ack, groups, priority, delay, deduplication, ttl, order, max_size, depth, purge | native |
| dead_letters, confirmations | native: a settlement and what follows from it are one step |
| replay, persistence | absent: what is settled is gone, and so is everything when the process ends |

Leases, delays and windows go by the monotonic clock, or by the one it is given.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator, Sequence

from pynomaly_tasks.errors import MessagingClosed
from pynomaly_tasks.messaging.backend import (
    Catalog,
    CatalogStale,
    Entry,
    Held,
    Measure,
    Outcome,
    Put,
    Settlement,
    Stored,
)
from pynomaly_tasks.messaging.backends.memory.broker import Channel, Item, MemoryBroker
from pynomaly_tasks.messaging.backends.memory.tasks import MemoryTaskRecords
from pynomaly_tasks.messaging.capabilities import Capabilities, Support

_N = Support.NATIVE

#: The longest that a consumer waits before it looks at the clock again.
_LONGEST_WAIT_S = 0.5


class MemoryBackend:
    """A connection to a `MemoryBroker`, by default to one of its own."""

    name = "memory"
    capabilities = Capabilities(
        ack=_N, groups=_N, priority=_N, delay=_N, deduplication=_N, ttl=_N, dead_letters=_N, order=_N,
        max_size=_N, confirmations=_N, depth=_N, purge=_N, tasks=_N,
    )  # fmt: skip

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        self._shared = broker or MemoryBroker()
        self._is_open = False

    @property
    def _broker(self) -> MemoryBroker:
        if not self._is_open:
            raise MessagingClosed("the memory backend is not open; use it in `async with`, or call open()")
        return self._shared

    async def open(self) -> None:
        """Ready at once."""
        self._is_open = True

    async def close(self) -> None:
        """Wake whoever waits: they find it closed."""
        self._is_open = False
        for channel in self._shared.channels.values():
            channel.wake(len(channel.waiters))

    async def ping(self) -> None:
        """Answers while it is open."""
        _ = self._broker

    async def read_catalog(self) -> Catalog:
        """All records."""
        return Catalog(self._broker.version, dict(self._broker.records))

    async def declare(self, name: str, record: bytes) -> bytes:
        """Keep the record, or return the one that stands."""
        broker = self._broker
        if name not in broker.records:
            broker.records[name] = record
            broker.version += 1
        return broker.records[name]

    async def forget(self, name: str) -> bool:
        """Drop a record."""
        broker = self._broker
        if broker.records.pop(name, None) is None:
            return False
        broker.version += 1
        return True

    async def put(self, entries: Sequence[Entry], *, catalog_version: int) -> list[Put]:
        """Put them in order."""
        self._check(catalog_version)
        return [self._put(entry) for entry in entries]

    def _put(self, entry: Entry) -> Put:
        channel, now = self._broker.channel(entry.channel), self._broker.clock()
        for key in _ended(channel.windows, now):
            del channel.windows[key]
        if entry.deduplication_key in channel.windows:
            return Put.DUPLICATE
        if entry.max_size is not None and channel.depth >= entry.max_size:
            return Put.FULL
        if entry.deduplication_key:
            channel.windows[entry.deduplication_key] = now + entry.deduplication_s
        self._broker.put(entry)
        return Put.DONE

    async def take(
        self,
        channel: str,
        *,
        max_entries: int,
        lease_s: float,
        wait_s: float,
        catalog_version: int,
        lowest: bool = False,
    ) -> list[Held]:
        """Up to ``max_entries`` in order."""
        end = self._broker.clock() + wait_s
        while True:
            self._check(catalog_version)
            state = self._broker.channel(channel)
            held = [self._hold(channel, state, item, lease_s) for item in _next(state, max_entries, lowest)]
            left = end - self._broker.clock()
            if held or left <= 0:
                if state.waiting:
                    state.wake(1)  # one token woke us, and there is more
                return held
            await self._wait(state, left)

    async def _wait(self, channel: Channel, left_s: float) -> None:
        now = self._broker.clock()
        due = [heap[0][0] - now for heap in (channel.delayed, channel.leases) if heap]
        waiter = asyncio.get_running_loop().create_future()
        channel.waiters.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=max(0.0, min(left_s, _LONGEST_WAIT_S, *due)))
        finally:
            channel.waiters.discard(waiter)
            if waiter.done() and not waiter.cancelled() and asyncio.current_task().cancelling():  # type: ignore[union-attr]  # we are in a task
                channel.wake(1)  # the token was ours, and we shall not use it

    def _hold(self, name: str, channel: Channel, item: Item, lease_s: float) -> Held:
        now = self._broker.clock()
        self._broker.n_fences += 1
        item.fence = str(self._broker.n_fences)
        item.n_deliveries += 1
        channel.lease(item, now + lease_s)
        is_expired = item.expires_at is not None and item.expires_at <= now
        channel.counts["delivered"] += not is_expired
        return Held(
            channel=name,
            key=item.key,
            fence=item.fence,
            message_id=item.message_id,
            body=item.body,
            priority=item.priority,
            n_deliveries=item.n_deliveries,
            is_expired=is_expired,
        )

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """End them, each with what follows from it."""
        return [self._settle(settlement) for settlement in settlements]

    def _settle(self, settlement: Settlement) -> bool:
        channel, item = self._find(settlement.held)
        if item is None:
            return False
        del channel.items[item.key]
        channel.counts[settlement.outcome.value] += 1
        if settlement.outcome is Outcome.ACKNOWLEDGED:
            channel.handled_s += settlement.handled_s
        if settlement.note is not None:
            self._broker.note(settlement.note)
        for entry in settlement.then:
            self._broker.put(entry)
        return True

    async def give_back(self, held: Held, *, delay_s: float, counted: bool) -> bool:
        """Hand it out again after ``delay_s``."""
        channel, item = self._find(held)
        if item is None:
            return False
        item.fence = ""
        if counted:
            channel.counts["requeued"] += 1
        else:
            item.n_deliveries -= 1
        channel.lease(item, self._broker.clock() + delay_s)
        channel.wake(1)
        return True

    async def extend(self, held: Sequence[Held], *, lease_s: float) -> list[bool]:
        """Let the leases end later."""
        answers = []
        for each in held:
            channel, item = self._find(each)
            # One that ran out lies among the waiting already, and is not taken from there again.
            if item is not None and item.lease_until is not None:
                channel.lease(item, self._broker.clock() + lease_s)
            answers.append(item is not None and item.lease_until is not None)
        return answers

    async def purge(self, channel: str) -> int:
        """Remove what waits or is delayed."""
        state = self._broker.channel(channel)
        waiting = [key for key, item in state.items.items() if not item.is_held]
        for key in waiting:
            del state.items[key]
        n = len(waiting) + len(state.delayed)
        state.delayed.clear()
        state.counts["purged"] += n
        return n

    async def erase(self, channel: str) -> None:
        """Remove the channel."""
        state = self._broker.channels.pop(channel, None)
        if state is not None:
            state.wake(len(state.waiters))

    async def measure(self, channel: str) -> Measure:
        """Count it."""
        state, now = self._broker.channel(channel), self._broker.clock()
        return Measure(
            depth=state.depth,
            in_flight=sum(item.is_held for item in state.items.values()),
            delayed=len(state.delayed) + sum(item.is_paused for item in state.items.values()),
            oldest_age_s=max((now - item.put_at for item in state.items.values()), default=0.0),
            handled_s=state.handled_s,
            **state.counts,
        )

    async def browse(self, channel: str, *, after: str, limit: int) -> list[Stored]:
        """Entries of priority 0, in order."""
        items = self._broker.channel(channel).items.values()
        found = [item for item in items if item.priority == 0 and int(item.key) > int(after or 0)]
        return [Stored(key=item.key, message_id=item.message_id, body=item.body) for item in found[:limit]]

    async def find(self, channel: str, key: str) -> Stored | None:
        """One entry of priority 0 by its key."""
        item = self._broker.channel(channel).items.get(key)
        if item is None or item.priority != 0:
            return None
        return Stored(key=item.key, message_id=item.message_id, body=item.body)

    async def remove(self, channel: str, key: str, *, then: Sequence[Entry] = ()) -> bool:
        """Remove one that nobody holds, and put what follows."""
        state = self._broker.channel(channel)
        item = state.items.get(key)
        if item is None or item.lease_until is not None:
            return False
        del state.items[key]
        state.counts["purged"] += 1
        for entry in then:
            self._broker.put(entry)
        return True

    async def read_notes(self, key: str) -> frozenset[str]:
        """The members noted under the key."""
        until, members = self._broker.notes.get(key, (0.0, set()))
        return frozenset(members) if until > self._broker.clock() else frozenset()

    def task_records(self) -> MemoryTaskRecords:
        """Where tasks stand, kept beside their queues."""
        return MemoryTaskRecords(lambda: self._broker)

    def _check(self, catalog_version: int) -> None:
        if self._broker.version != catalog_version:
            raise CatalogStale

    def _find(self, held: Held) -> tuple[Channel, Item | None]:
        channel = self._broker.channel(held.channel)
        item = channel.items.get(held.key)
        return channel, item if item is not None and item.fence == held.fence else None


def _next(channel: Channel, n: int, lowest: bool) -> Iterator[Item]:
    """Take from the heap; entries that were settled, or taken another way, are passed over."""
    if lowest:
        waiting = [item for item in channel.items.values() if item.lease_until is None]
        yield from sorted(waiting, key=lambda item: (item.priority, item.rank))[:n]
        return
    while n > 0 and channel.waiting:
        _, key = heapq.heappop(channel.waiting)
        item = channel.items.get(key)
        if item is not None and item.lease_until is None:
            n -= 1
            yield item


def _ended(windows: dict[str, float], now: float) -> list[str]:
    """The keys whose window ended, from the oldest on: one channel's windows are of one length."""
    ended = []
    for key, end in windows.items():
        if end > now:
            break
        ended.append(key)
    return ended
