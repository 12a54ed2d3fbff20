"""One lane, hosted: the connection that has its session, and the items that the broker handed to it.

An MQTT broker hands the messages of a session to the one connection that has it, and keeps what that
connection did not acknowledge. The process whose connection it is hands the items on, to itself and to
others. What it has handed out is retained in the broker, so that the next host knows it.
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Sequence
from typing import Any

import orjson

from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.messaging.backends.mqtt.desk import Desk, Slot
from pynomaly_tasks.messaging.backends.mqtt.link import Arrival, Link
from pynomaly_tasks.messaging.backends.mqtt.wire import Topics, last_name

#: Of an item: its name, its priority, and the instants that it was sent at and is due at.
KEY, PRIORITY, SENT_AT, DUE_AT = "key", "priority", "sent_at", "due_at"
#: Of a message that only marks a place in the queue.
MARK = "mark"
Answer = tuple[Any, list[bytes]]


class HostLost(BrokerUnavailable):
    """Another process hosts the lane now, or the connection is gone."""


class Host:
    """Answers for one lane as long as its link is up. Each method of the table is a request of `METHODS`."""

    def __init__(self, lane: str, topics: Topics, window: int, timeout_s: float) -> None:
        """``window``: most items that the broker hands over before some are acknowledged."""
        self._window = window
        self.lane = lane
        self._topics = topics
        self._timeout_s = timeout_s
        self._desk = Desk()
        self._held: dict[str, bytes] = {}  # retained records, as the last host left them
        self._early: dict[str, Arrival] = {}  # in order; not looked at yet
        self._mark = uuid.uuid4().hex
        self._has_all = asyncio.Event()
        self._is_loaded = asyncio.Event()
        self.link: Link | None = None

    @property
    def is_up(self) -> bool:
        """It has the session, as far as it knows."""
        return self.link is not None and self.link.is_up

    async def start(self, link: Link) -> None:
        """Connect over the lane's own link, and read what the broker has."""
        self.link = link  # before: with the first answer messages may come
        await link.connect()
        link.lost.add_done_callback(lambda _: self._desk.wake_all())
        items, held = self._topics.items(self.lane), self._topics.held(self.lane, "+")
        await link.listen(held)
        await link.listen(items)
        mark = link.send(items, b"", qos=1, attributes={MARK: self._mark})
        await link.answer(mark)
        await link.unlisten(held)
        await self._load()

    async def _load(self) -> None:
        while not self._has_all.is_set():
            n_seen = len(self._early)
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._has_all.wait()
            except TimeoutError:
                if not self.is_up or n_seen == len(self._early):
                    raise HostLost(f"the broker did not hand over what lies in {self.lane} in time") from None
        self._check_up()
        for key, message in self._early.items():
            self._add(key, message)
        self._early.clear()
        for key in self._held:
            # Of an item that was acknowledged when its host died.
            self._forget(key)
        self._held.clear()
        self._is_loaded.set()

    def arrived(self, message: Arrival) -> None:
        """A message of the lane's session."""
        if self.link is None:
            return
        if message.topic != self._topics.items(self.lane):
            if message.payload:
                self._held[last_name(message.topic)] = message.payload
            self.link.acknowledge(message.mid)
            return
        said = message.attributes
        key = said.get(KEY, f"m{message.mid:05}")
        if MARK in said or key in self._desk or key in self._early:
            self.link.acknowledge(message.mid)
            if said.get(MARK) == self._mark:
                self._has_all.set()
            return
        if self._is_loaded.is_set():
            self._add(key, message)
        else:
            # With the connection they come at once, before the records of who holds what.
            self._early[key] = message
            if len(self._early) >= self._window:
                self._has_all.set()  # the broker hands over no more before some are acknowledged

    def _add(self, key: str, message: Arrival) -> None:
        said = message.attributes
        slot = Slot(key, message.mid, message.payload, _whole(said.get(PRIORITY)), _number(said.get(SENT_AT)))
        due_s = _number(said.get(DUE_AT)) - time.time()
        if due_s > 0:
            slot.wakes_at = time.monotonic() + due_s
        if (record := _read(self._held.pop(key, b""))) is not None:
            slot.n_handed, slot.fence, until = record
            slot.wakes_at = time.monotonic() + until - time.time() if until > time.time() else None
        self._desk.add(slot)

    async def take(self, n: int, lease_s: float, lowest: bool) -> Answer:
        """Hand out up to ``n``: key, fence and earlier handings of each, and their bytes."""
        take = self._desk.take_lowest if lowest else self._desk.take
        if not (taken := take(n, lease_s)):
            await self._catch_up()
            taken = take(n, lease_s)
        until = time.time() + lease_s
        for slot in taken:
            self._record(slot, until)
        self._check_up().write_now(len(taken))
        return [[slot.key, slot.fence, slot.n_handed - 1] for slot in taken], [slot.data for slot in taken]

    async def wait(self, wait_s: float) -> Answer:
        """Whether something waits to be taken."""
        found = await self._desk.wait(wait_s)
        self._check_up()
        return found, []

    async def settle(self, handed: Sequence[tuple[str, str]]) -> Answer:
        """End them; which were ours, None for one that is not there. Answers when the broker has read it."""
        ours: dict[str, Slot] = {}
        answers: list[bool | None] = []
        for key, fence in handed:
            slot = self._desk.find_handed(key, fence)
            is_there = slot is not None or self._desk.find(key) is not None
            answers.append(slot is not None and key not in ours if is_there else None)
            if slot is not None:
                ours[key] = slot
        await self._end(list(ours.values()))
        return answers, []

    async def release(self, key: str, fence: str) -> Answer:
        """Hand it out again now, as if it had not been handed out."""
        slot = self._desk.find_handed(key, fence)
        if slot is None:
            return False, []
        self._desk.give_back(slot)
        self._record(slot, 0.0)
        return True, []

    async def extend(self, handed: Sequence[tuple[str, str]], lease_s: float) -> Answer:
        """Let the leases end later; which were ours."""
        answers = []
        for key, fence in handed:
            slot = self._desk.find_handed(key, fence)
            # One whose lease ended lies among the waiting, and is not taken from there again.
            is_ours = slot is not None and slot.is_held
            if slot is not None and is_ours:
                self._desk.sleep(slot, time.monotonic() + lease_s)
                self._record(slot, time.time() + lease_s)
            answers.append(is_ours)
        return answers, []

    async def purge(self) -> Answer:
        """End what nobody holds; how many."""
        await self._catch_up()
        free = self._desk.free()
        await self._end(free)
        return len(free), []

    async def count(self) -> Answer:
        """How many wait, are held, are delayed; the oldest's age."""
        await self._catch_up()
        return list(self._desk.count()), []

    async def browse(self, after: str, limit: int) -> Answer:
        """What nobody holds, by key."""
        await self._catch_up()
        found = [slot for slot in self._desk.free() if slot.key > after][:limit]
        return [slot.key for slot in found], [slot.data for slot in found]

    async def find(self, key: str) -> Answer:
        """One that nobody holds."""
        await self._catch_up()
        slot = self._desk.find(key)
        return (False, []) if slot is None or slot.is_held else (True, [slot.data])

    async def remove(self, key: str) -> Answer:
        """End one that nobody holds; whether it was there."""
        slot = self._desk.find(key)
        if slot is None or slot.is_held:
            return False, []
        await self._end([slot])
        return True, []

    async def stop(self) -> None:
        """Leave the session to the next host."""
        if self.link is not None:
            await self.link.disconnect()
        self._desk.wake_all()

    async def _end(self, slots: Sequence[Slot]) -> None:
        link = self._check_up()
        for slot in slots:
            self._desk.remove(slot)
            link.acknowledge(slot.mid)
            if slot.n_handed:
                self._forget(slot.key)
        if slots:
            await self._catch_up()

    async def _catch_up(self) -> None:
        """Return when the broker has read what we wrote, and we what it had for us before.

        Acknowledgements are not answered by themselves; what is sent behind them is.
        """
        link = self._check_up()
        await link.answer(link.send(self._topics.flush, b"", qos=1))

    def _record(self, slot: Slot, until: float) -> None:
        """For the next host."""
        record = orjson.dumps([slot.n_handed, slot.fence, until]) if slot.n_handed else b""
        self._check_up().send(self._topics.held(self.lane, slot.key), record, qos=0, retain=True)

    def _forget(self, key: str) -> None:
        self._check_up().send(self._topics.held(self.lane, key), b"", qos=0, retain=True)

    def _check_up(self) -> Link:
        if self.link is None or not self.link.is_up:
            raise HostLost(f"another process hosts {self.lane} now, or the broker is away")
        return self.link


METHODS = {
    name: getattr(Host, name)
    for name in ("take", "wait", "settle", "release", "extend", "purge", "count", "browse", "find", "remove")
}


def _read(record: bytes) -> tuple[int, str, float] | None:
    """Handings, fence and end of the lease; None where there is nothing, or nothing of ours."""
    try:
        n_handed, fence, until = orjson.loads(record)
        return int(n_handed), str(fence), float(until)
    except (ValueError, TypeError):
        return None


def _number(text: str | None) -> float:
    """Foreign messages may say anything."""
    try:
        number = float(text or 0.0)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0


def _whole(text: str | None) -> int:
    return max(0, min(255, int(_number(text))))
