"""A broker that only keeps items, in memory: what the emulation layer is tested on without a server."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pynomaly_tasks.errors import BrokerUnavailable, MessagingClosed
from pynomaly_tasks.messaging.backend import Catalog, Note
from pynomaly_tasks.messaging.capabilities import Capabilities, Support
from pynomaly_tasks.messaging.plain_broker import Item, LaneCount, LaneGone, Lying, Taken, Traits

_N, _E = Support.NATIVE, Support.EMULATED


@dataclass(slots=True)
class Kept:
    """One item in a lane."""

    data: bytes
    n_handed: int = 0
    lease: int = 0  #: which handing holds it
    until: float = 0.0
    appended_at: float = field(default_factory=time.monotonic)


class PlainMemoryServer:
    """What several connections share."""

    def __init__(self) -> None:
        self.lanes: dict[str, dict[int, Kept]] = {}
        self.records: dict[str, bytes] = {}
        self.version = 0
        self.notes: dict[str, set[str]] = {}
        self.numbers = itertools.count(1)
        #: Called with the name of each write before it is done; a test raises from here, or counts.
        self.before: Callable[[str], None] = lambda step: None


class PlainMemoryBroker:
    """One connection."""

    name = "plain_memory"
    capabilities = Capabilities(
        ack=_N, groups=_N, priority=_E, delay=_E, deduplication=_E, ttl=_E, dead_letters=_E, order=_N,
        max_size=_E, confirmations=_N, depth=_N, purge=_N,
    )  # fmt: skip
    traits = Traits()

    def __init__(self, server: PlainMemoryServer) -> None:
        self._server = server
        self._is_open = False

    async def open(self) -> None:
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False

    async def ping(self) -> None:
        self._check("ping")

    async def read_catalog(self) -> Catalog:
        self._check("read_catalog")
        return Catalog(self._server.version, dict(self._server.records))

    async def declare(self, name: str, record: bytes) -> bytes:
        self._check("declare")
        if name not in self._server.records:
            self._server.records[name] = record
            self._server.version += 1
        return self._server.records[name]

    async def forget(self, name: str) -> bool:
        self._check("forget")
        was_there = self._server.records.pop(name, None) is not None
        self._server.version += was_there
        return was_there

    async def make_lane(self, lane: str) -> None:
        self._check("make_lane")
        self._server.lanes.setdefault(lane, {})

    async def erase_lane(self, lane: str) -> None:
        self._check("erase_lane")
        self._server.lanes.pop(lane, None)

    async def append(self, items: Sequence[Item]) -> None:
        self._check("append")
        for item in items:
            self._lane(item.lane)
        for item in items:
            assert item.priority == 0
            assert item.delay_s == 0.0
            self._lane(item.lane)[next(self._server.numbers)] = Kept(item.data)

    async def take(
        self, lanes: Sequence[str], *, max_items: int, lease_s: float, wait_s: float
    ) -> list[Taken]:
        end = time.monotonic() + wait_s
        while True:
            self._check("take")
            taken = []
            for lane in lanes:
                for number, kept in self._lane(lane).items():
                    if len(taken) < max_items and kept.until <= time.monotonic():
                        kept.lease = next(self._server.numbers)
                        kept.until = time.monotonic() + lease_s
                        taken.append(
                            Taken(
                                lane=lane, token=(number, kept.lease), data=kept.data, n_earlier=kept.n_handed
                            )
                        )
                        kept.n_handed += 1
            if taken or time.monotonic() >= end:
                return taken
            await asyncio.sleep(0.005)

    async def acknowledge(self, taken: Sequence[Taken]) -> list[bool]:
        self._check("acknowledge")
        answers = [self._find(each) is not None for each in taken]
        for each, is_ours in zip(taken, answers, strict=True):
            if is_ours:
                del self._server.lanes[each.lane][each.token[0]]  # type: ignore[index]
        return answers

    async def release(self, taken: Taken) -> bool:
        self._check("release")
        kept = self._find(taken)
        if kept is not None:
            kept.lease, kept.until = 0, 0.0
        return kept is not None

    async def extend(self, taken: Sequence[Taken], *, lease_s: float) -> list[bool]:
        self._check("extend")
        answers = []
        for each in taken:
            kept = self._find(each)
            is_ours = kept is not None and kept.until > time.monotonic()
            if is_ours and kept is not None:
                kept.until = time.monotonic() + lease_s
            answers.append(is_ours)
        return answers

    async def purge(self, lane: str) -> int:
        self._check("purge")
        waiting = [n for n, kept in self._lane(lane).items() if kept.until <= time.monotonic()]
        for number in waiting:
            del self._lane(lane)[number]
        return len(waiting)

    async def count(self, lane: str) -> LaneCount:
        self._check("count")
        now, kept = time.monotonic(), self._lane(lane).values()
        held = sum(each.until > now for each in kept)
        oldest = min((each.appended_at for each in kept), default=now)
        return LaneCount(waiting=len(kept) - held, held=held, oldest_age_s=now - oldest)

    async def browse(self, lane: str, *, after: str, limit: int) -> list[Lying]:
        self._check("browse")
        now = time.monotonic()
        found = [
            Lying(key=str(number), data=kept.data)
            for number, kept in self._lane(lane).items()
            if kept.until <= now and number > int(after or 0)
        ]
        return found[:limit]

    async def find(self, lane: str, key: str) -> Lying | None:
        return next(
            (each for each in await self.browse(lane, after="", limit=10**9) if each.key == key), None
        )

    async def remove(self, lane: str, key: str) -> bool:
        self._check("remove")
        return self._lane(lane).pop(int(key), None) is not None

    async def add_note(self, note: Note) -> None:
        self._check("add_note")
        self._server.notes.setdefault(note.key, set()).add(note.member)

    async def read_notes(self, key: str) -> frozenset[str]:
        self._check("read_notes")
        return frozenset(self._server.notes.get(key, ()))

    def _lane(self, lane: str) -> dict[int, Kept]:
        if lane not in self._server.lanes:
            raise LaneGone(f"there is no lane {lane}")
        return self._server.lanes[lane]

    def _find(self, taken: Taken) -> Kept | None:
        """It, if the handing is the last one."""
        number, lease = taken.token  # type: ignore[misc]
        kept = self._server.lanes.get(taken.lane, {}).get(number)
        return kept if kept is not None and kept.lease == lease else None

    def _check(self, step: str) -> None:
        if not self._is_open:
            raise MessagingClosed("the plain memory broker is not open; call open()")
        self._server.before(step)


def refuse(step: str) -> Callable[[str], None]:
    """For `PlainMemoryServer.before`: the broker gives no answer to this step, but for who moves what was delayed."""

    def before(name: str) -> None:
        task = asyncio.current_task()
        if name == step and not (task and task.get_name().startswith("delays of")):
            raise BrokerUnavailable(f"{step} was not answered")

    return before
