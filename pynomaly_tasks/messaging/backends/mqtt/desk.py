"""The items of one lane as the process that hosts it has them: who waits, who is due when, who is held."""

from __future__ import annotations

import asyncio
import heapq
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

#: Longest time that a waiter sleeps before it looks again.
_LONGEST_WAIT_S = 1.0


@dataclass(slots=True)
class Slot:
    """One item. It waits, or it wakes at an instant: because it is delayed, or when its lease ends."""

    key: str
    mid: int  #: what it is acknowledged by on the host's connection
    data: bytes
    priority: int
    sent_at: float  #: seconds since 1970, by the sender's clock
    order: int = 0
    n_handed: int = 0
    fence: str = ""  #: of the last handing; empty when there was none, or it was given back
    wakes_at: float | None = None  #: by the monotonic clock; None: it waits

    @property
    def is_held(self) -> bool:
        """Under a lease."""
        return self.wakes_at is not None and self.fence != ""


class Desk:
    """Items in order of priority, then of arrival. It does nothing but remember."""

    def __init__(self) -> None:
        self._slots: dict[str, Slot] = {}
        self._waiting: list[tuple[int, int, str]] = []  # heap; of what was taken another way, entries stay
        self._timers: list[tuple[float, str]] = []  # heap; instants that were changed stay until they pass
        self._n_arrived = 0
        self._arrival: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, key: str) -> bool:
        return key in self._slots

    def add(self, slot: Slot) -> None:
        """It came."""
        self._n_arrived += 1
        slot.order = self._n_arrived
        self._slots[slot.key] = slot
        if slot.wakes_at is None:
            self._wait(slot)
        else:
            self.sleep(slot, slot.wakes_at)

    def sleep(self, slot: Slot, until: float) -> None:
        """Let it wait from then on."""
        slot.wakes_at = until
        heapq.heappush(self._timers, (until, slot.key))

    def find(self, key: str) -> Slot | None:
        """Whoever holds it."""
        self._look_at_the_clock()
        return self._slots.get(key)

    def find_handed(self, key: str, fence: str) -> Slot | None:
        """The item, where this was the last handing of it."""
        slot = self.find(key)
        return slot if slot is not None and fence and slot.fence == fence else None

    def take(self, n: int, lease_s: float) -> list[Slot]:
        """The next ones, each with a new fence."""
        self._look_at_the_clock()
        taken: list[Slot] = []
        while self._waiting and len(taken) < n:
            slot = self._slots.get(heapq.heappop(self._waiting)[2])
            if slot is None or slot.wakes_at is not None:
                continue
            taken.append(self._hand(slot, lease_s))
        return taken

    def take_lowest(self, n: int, lease_s: float) -> list[Slot]:
        """The next ones from the other end: of the lowest priority, in order of arrival."""
        self._look_at_the_clock()
        waiting = [slot for slot in self._slots.values() if slot.wakes_at is None]
        waiting.sort(key=lambda slot: (slot.priority, slot.order))
        return [self._hand(slot, lease_s) for slot in waiting[:n]]

    def _hand(self, slot: Slot, lease_s: float) -> Slot:
        slot.fence = uuid.uuid4().hex
        slot.n_handed += 1
        self.sleep(slot, time.monotonic() + lease_s)
        return slot

    def give_back(self, slot: Slot) -> None:
        """As if it had not been handed out."""
        slot.fence, slot.wakes_at = "", None
        slot.n_handed -= 1
        self._wait(slot)

    def remove(self, slot: Slot) -> None:
        """It is done."""
        del self._slots[slot.key]

    def free(self) -> list[Slot]:
        """What nobody holds, by key."""
        self._look_at_the_clock()
        return sorted((slot for slot in self._slots.values() if not slot.is_held), key=lambda slot: slot.key)

    def count(self) -> tuple[int, int, int, float]:
        """How many wait, are held, are delayed; the age of the oldest that is not delayed."""
        self._look_at_the_clock()
        slots: Sequence[Slot] = list(self._slots.values())
        held = sum(slot.is_held for slot in slots)
        delayed = sum(slot.wakes_at is not None and not slot.fence for slot in slots)
        ages = [time.time() - slot.sent_at for slot in slots if slot.wakes_at is None or slot.fence]
        return len(slots) - held - delayed, held, delayed, max(0.0, max(ages, default=0.0))

    async def wait(self, wait_s: float) -> bool:
        """Until something waits to be taken; whether it does."""
        end = time.monotonic() + wait_s
        while True:
            self._look_at_the_clock()
            if any((slot := self._slots.get(key)) and slot.wakes_at is None for _, _, key in self._waiting):
                return True
            left_s = end - time.monotonic()
            if left_s <= 0:
                return False
            if self._timers:
                left_s = min(left_s, max(0.0, self._timers[0][0] - time.monotonic()) + 0.001)
            if self._arrival is None or self._arrival.done():
                self._arrival = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._arrival], timeout=min(left_s, _LONGEST_WAIT_S))

    def wake_all(self) -> None:
        """Let every waiter look again."""
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def _wait(self, slot: Slot) -> None:
        heapq.heappush(self._waiting, (-slot.priority, slot.order, slot.key))
        self.wake_all()

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            until, key = heapq.heappop(self._timers)
            slot = self._slots.get(key)
            if slot is not None and slot.wakes_at == until:
                slot.wakes_at = None
                self._wait(slot)
