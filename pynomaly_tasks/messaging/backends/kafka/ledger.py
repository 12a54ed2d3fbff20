"""Who holds what: the state that every process computes from one log, and so agrees on.

Kafka acknowledges offsets, not messages, and gives a partition to one consumer of a group. So claims and
settlements are records of a log of their own, the *ledger*: whoever reads it in order gets the same state.
A claim counts when and as it stands there; its time is the broker's (``LogAppendTime``), so leases go by
one clock. Nothing here does any input or output.

Records are JSON lists: who wrote it, its number there, what to do, and the arguments. What is not one of
ours changes nothing.
"""

from __future__ import annotations

import base64
import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

#: Where an item is: its lane, the lane's id, and its offset; with the claim that it was handed out by.
Claimed = tuple[str, int, int, int]

#: Notes that have ended are dropped with one in so many records.
_PRUNE_EVERY = 100


@dataclass(slots=True)
class Slot:
    """An item that was handed out and is not settled."""

    n: int  #: how often it was handed out
    fence: int  #: the claim that it was handed out by last
    until_ms: int | None  #: end of its lease; None: it waits again


@dataclass(slots=True)
class Lane:
    """One lane: everything before ``next`` that is not in ``open`` is settled."""

    id: int  #: the offset of the record that made it; in its topic's name, so that none is used twice
    next: int = 0  #: the first offset that was never handed out
    open: dict[int, Slot] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)  #: from ``next`` on: removed without being handed out
    ready: list[int] = field(default_factory=list)  #: heap of those in ``open`` that wait again
    leases: list[tuple[int, int, int]] = field(default_factory=list)  #: heap: end, offset, fence

    @property
    def low(self) -> int:
        """Everything before it is settled."""
        return min(self.open, default=self.next)

    def held(self, offset: int, fence: int) -> Slot | None:
        """The item, if it was handed out last by this claim."""
        slot = self.open.get(offset)
        return slot if slot is not None and slot.fence == fence else None

    def expire(self, now_ms: int) -> None:
        """Have everything wait again whose lease has ended."""
        while self.leases and self.leases[0][0] <= now_ms:
            until_ms, offset, fence = heapq.heappop(self.leases)
            slot = self.held(offset, fence)
            if slot is not None and slot.until_ms == until_ms:
                slot.until_ms = None
                heapq.heappush(self.ready, offset)

    def next_end_ms(self) -> int | None:
        """When the next lease ends."""
        while self.leases:
            until_ms, offset, fence = self.leases[0]
            slot = self.held(offset, fence)
            if slot is not None and slot.until_ms == until_ms:
                return until_ms
            heapq.heappop(self.leases)
        return None

    def waiting(self) -> list[int]:
        """Those that were handed out and wait again, in order."""
        return sorted(offset for offset, slot in self.open.items() if slot.until_ms is None)

    def is_settled(self, offset: int) -> bool:
        """Whether nobody will be given it any more."""
        return offset in self.gone or (offset < self.next and offset not in self.open)

    def lying(self, end: int, start: int, limit: int) -> list[int]:
        """The first of those from ``start`` on that nobody holds."""
        found = [at for at in self.waiting() if at >= start][:limit]
        at = max(self.next, start)
        while at < end and len(found) < limit:
            if at not in self.gone:
                found.append(at)
            at += 1
        return found

    def n_fresh(self, end: int) -> int:
        """How many before ``end`` were never handed out."""
        return max(0, end - self.next - sum(offset < end for offset in self.gone))

    def n_waiting(self, end: int, now_ms: int) -> int:
        """About how many a claim made now could be given. Changes nothing: the clock here is a guess."""
        ends_ms = self.next_end_ms()
        n_ended = ends_ms is not None and ends_ms <= now_ms
        return self.n_fresh(end) + (len(self.ready) if self._first_ready() is not None else 0) + n_ended

    def _first_ready(self) -> int | None:
        while self.ready:
            slot = self.open.get(self.ready[0])
            if slot is not None and slot.until_ms is None:
                return self.ready[0]
            heapq.heappop(self.ready)
        return None

    def take(self, end: int, n: int, fence: int, until_ms: int) -> list[tuple[int, int]]:
        """Hand out up to ``n`` in order; offset and how often it was handed out before."""
        found: list[tuple[int, int]] = []
        while len(found) < n:
            offset = self._first_ready()
            if offset is not None:
                heapq.heappop(self.ready)
                slot = self.open[offset]
            elif self.next < end:
                offset = self.next
                self.next += 1
                if offset in self.gone:
                    self.gone.discard(offset)
                    continue
                slot = self.open[offset] = Slot(0, 0, None)
            else:
                break
            found.append((offset, slot.n))
            slot.n += 1
            slot.fence = fence
            self.lease(offset, slot, until_ms)
        return found

    def lease(self, offset: int, slot: Slot, until_ms: int) -> None:
        """Let its lease end then."""
        slot.until_ms = until_ms
        heapq.heappush(self.leases, (until_ms, offset, slot.fence))

    def drop(self, offset: int, end: int) -> bool:
        """Settle an item that nobody holds; whether it was there."""
        slot = self.open.get(offset)
        if slot is not None:
            if slot.until_ms is not None:
                return False
            del self.open[offset]
            return True
        if not self.next <= offset < end or offset in self.gone:
            return False
        self.gone.add(offset)
        while self.next in self.gone:
            self.gone.discard(self.next)
            self.next += 1
        return True

    def purge(self, end: int) -> int:
        """Settle everything before ``end`` that nobody holds; how many."""
        ready = self.waiting()
        for offset in ready:
            del self.open[offset]
        n = len(ready) + self.n_fresh(end)
        self.next = max(self.next, end)
        self.gone = {offset for offset in self.gone if offset >= self.next}
        return n


class Ledger:
    """The state after some offset of the ledger."""

    def __init__(self) -> None:
        self.now_ms = 0  #: the broker's time, as of the newest record
        self.version = 0  #: changes with each change of the records
        self.records: dict[str, bytes] = {}
        self.notes: dict[str, tuple[int, set[str]]] = {}  #: key -> end in ms, members
        self.lanes: dict[str, Lane] = {}
        self.erased: list[tuple[str, int]] = []  #: lanes, with their ids, since somebody emptied this
        self._steps: dict[str, Callable[..., Any]] = {
            "declare": self._declare, "forget": self._forget, "note": self._note, "make": self._make,
            "erase": self._erase, "take": self._take, "settle": self._settle, "release": self._release,
            "extend": self._extend, "purge": self._purge, "drop": self._drop, "skip": self._skip,
        }  # fmt: skip

    def apply(self, offset: int, timestamp_ms: int, raw: bytes | None) -> tuple[str, int, Any] | None:
        """Change the state as a record says: who wrote it, its number there, and the answer. None: not ours."""
        try:
            writer, number, step, *arguments = orjson.loads(raw or b"")
            action = self._steps[step]
        except (orjson.JSONDecodeError, ValueError, KeyError, TypeError):
            return None
        self.now_ms = max(self.now_ms, timestamp_ms)
        try:
            return writer, number, action(offset, *arguments)
        except (TypeError, ValueError, AttributeError):
            return None

    def _declare(self, offset: int, name: str, record: str) -> bytes:
        if name not in self.records:
            self.records[name] = base64.b64decode(record)
            self.version = offset + 1
        return self.records[name]

    def _forget(self, offset: int, name: str) -> bool:
        if self.records.pop(name, None) is None:
            return False
        self.version = offset + 1
        return True

    def _note(self, offset: int, key: str, member: str, keep_ms: int) -> None:
        if offset % _PRUNE_EVERY == 0:
            self.notes = {key: value for key, value in self.notes.items() if value[0] > self.now_ms}
        _, members = self.notes.get(key, (0, set()))
        self.notes[key] = (self.now_ms + keep_ms, members | {member})

    def _make(self, offset: int, name: str) -> int:
        return self.lanes.setdefault(name, Lane(offset)).id

    def _erase(self, offset: int, name: str) -> int | None:
        lane = self.lanes.pop(name, None)
        if lane is None:
            return None
        self.erased.append((name, lane.id))
        return lane.id

    def _take(
        self, offset: int, lanes: Sequence[tuple[str, int, int]], n: int, lease_ms: int
    ) -> list[tuple[Claimed, int]]:
        found: list[tuple[Claimed, int]] = []
        for name, lane_id, end in lanes:
            lane = self._lane(name, lane_id)
            if lane is None:
                continue
            lane.expire(self.now_ms)
            taken = lane.take(end, n - len(found), offset, self.now_ms + lease_ms)
            found += [((name, lane_id, at, offset), n_earlier) for at, n_earlier in taken]
        return found

    def _settle(self, offset: int, claimed: Iterable[Claimed]) -> list[bool]:
        answers = []
        for name, lane_id, at, fence in claimed:
            lane = self._lane(name, lane_id)
            is_ours = lane is not None and lane.held(at, fence) is not None
            if lane is not None and is_ours:
                del lane.open[at]
            answers.append(is_ours)
        return answers

    def _release(self, offset: int, claimed: Iterable[Claimed], counted: bool) -> list[bool]:
        answers = []
        for name, lane_id, at, fence in claimed:
            lane = self._lane(name, lane_id)
            slot = lane.held(at, fence) if lane is not None else None
            if lane is not None and slot is not None:
                slot.fence = -1  # whoever held it can do nothing with it any more
                slot.n -= not counted
                slot.until_ms = None
                heapq.heappush(lane.ready, at)
            answers.append(slot is not None)
        return answers

    def _extend(self, offset: int, claimed: Iterable[Claimed], lease_ms: int) -> list[bool]:
        answers = []
        for name, lane_id, at, fence in claimed:
            lane = self._lane(name, lane_id)
            slot = lane.held(at, fence) if lane is not None else None
            # Also one whose lease ended: nobody else was given it.
            if lane is not None and slot is not None:
                lane.lease(at, slot, self.now_ms + lease_ms)
            answers.append(slot is not None)
        return answers

    def _purge(self, offset: int, name: str, lane_id: int, end: int) -> int:
        lane = self._lane(name, lane_id)
        if lane is None:
            return 0
        lane.expire(self.now_ms)
        return lane.purge(end)

    def _drop(self, offset: int, name: str, lane_id: int, at: int, end: int) -> bool:
        lane = self._lane(name, lane_id)
        if lane is None:
            return False
        lane.expire(self.now_ms)
        return lane.drop(at, end)

    def _skip(self, offset: int, name: str, lane_id: int, to: int) -> None:
        """What lay before ``to`` is not in the log any more."""
        lane = self._lane(name, lane_id)
        if lane is not None:
            lane.next = max(lane.next, to)
            lane.gone = {at for at in lane.gone if at >= to}
            lane.open = {at: slot for at, slot in lane.open.items() if at >= to}

    def _lane(self, name: str, lane_id: int) -> Lane | None:
        lane = self.lanes.get(name)
        return lane if lane is not None and lane.id == lane_id else None

    def to_snapshot(self) -> dict[str, Any]:
        """The whole state, as JSON can hold it."""
        return {
            "now_ms": self.now_ms,
            "version": self.version,
            "records": {name: base64.b64encode(record).decode() for name, record in self.records.items()},
            "notes": {
                key: [until, sorted(members)]
                for key, (until, members) in self.notes.items()
                if until > self.now_ms
            },
            "lanes": {
                name: [
                    lane.id,
                    lane.next,
                    [[at, slot.n, slot.fence, slot.until_ms] for at, slot in lane.open.items()],
                    _as_ranges(lane.gone),
                ]
                for name, lane in self.lanes.items()
            },
        }

    @classmethod
    def from_snapshot(cls, state: dict[str, Any]) -> Ledger:
        """The state that `to_snapshot` told."""
        ledger = cls()
        ledger.now_ms, ledger.version = state["now_ms"], state["version"]
        ledger.records = {name: base64.b64decode(record) for name, record in state["records"].items()}
        ledger.notes = {key: (until, set(members)) for key, (until, members) in state["notes"].items()}
        for name, (lane_id, following, slots, gone) in state["lanes"].items():
            lane = ledger.lanes[name] = Lane(lane_id, following)
            lane.gone = {at for first, n in gone for at in range(first, first + n)}
            for at, n, fence, until_ms in slots:
                slot = lane.open[at] = Slot(n, fence, until_ms)
                if until_ms is None:
                    heapq.heappush(lane.ready, at)
                else:
                    lane.lease(at, slot, until_ms)
        return ledger


def _as_ranges(offsets: Iterable[int]) -> list[list[int]]:
    """First and length of each run."""
    ranges: list[list[int]] = []
    for at in sorted(offsets):
        if ranges and sum(ranges[-1]) == at:
            ranges[-1][1] += 1
        else:
            ranges.append([at, 1])
    return ranges
