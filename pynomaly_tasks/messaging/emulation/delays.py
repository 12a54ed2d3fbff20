"""Delay where the broker has none: items lie in delay lanes, and receivers move them when they are due.

Each delay lane keeps its items for one length of time, so its oldest is always its first: a mover holds a
few from its head, under a lease, and needs to look at no other. An item goes through lanes of shorter and
shorter stays (64 s, 16 s, 4 s, 1 s, less) and then to its channel, three times through each at most. Every
move is appended before the old one is acknowledged; a crash between leaves a copy, never a loss.

Items move while somebody receives from the channel, in whichever process: the one that was due while
nobody did comes at the next `take`. When a mover dies, what it held (at most `MAX_HELD` of each lane)
is late by `LEASE_S`.

A broker that delays by itself, up to a limit, has one delay lane: it keeps each item for as long as it can,
and then a mover moves it, or puts it there again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pynomaly_tasks.errors import Unavailable
from pynomaly_tasks.messaging.emulation.head import Head, read_head
from pynomaly_tasks.messaging.plain_broker import LaneGone, PlainBroker, Taken
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)

LEASE_S = 10.0
MAX_HELD = 100
#: A channel that nobody received from for this long is left alone.
_IDLE_S = 30.0
_LONGEST_WAIT_S = 1.0
_PAUSE_S = 1.0

Move = Callable[[str, Sequence[tuple[Head, bytes]]], Awaitable[None]]
FindLanes = Callable[[str], Awaitable[Sequence[str]]]


@dataclass(slots=True)
class _Waiting:
    taken: Taken
    head: Head
    body: bytes
    lease_until: float  #: monotonic


class Movers:
    """One task for each channel that is received from and has something delayed."""

    def __init__(
        self, broker: PlainBroker, find_lanes: FindLanes, move: Move, forget_lanes: Callable[[str], None]
    ) -> None:
        """``find_lanes``: makes and names a channel's delay lanes; ``move``: appends each where it belongs now."""
        self._forget_lanes = forget_lanes
        self._broker = broker
        self._find_lanes = find_lanes
        self._move = move
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wanted_at: dict[str, float] = {}
        self._waiting: dict[str, list[_Waiting]] = {}

    def want(self, channel: str) -> None:
        """Somebody receives from the channel, and it has delay lanes."""
        self._wanted_at[channel] = time.monotonic()
        task = self._tasks.get(channel)
        if task is None or task.done():
            self._tasks[channel] = asyncio.create_task(self._run(channel), name=f"delays of {channel}")

    async def stop(self, channel: str | None = None) -> list[Taken]:
        """End the task of a channel, or all; what it held is still held, and returned."""
        channels = list(self._tasks) if channel is None else [channel]
        tasks = [self._tasks.pop(name) for name in channels if name in self._tasks]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        return [each.taken for name in channels for each in self._waiting.pop(name, [])]

    async def _run(self, channel: str) -> None:
        waiting = self._waiting.setdefault(channel, [])
        while waiting or time.monotonic() - self._wanted_at[channel] < _IDLE_S:
            try:
                await self._turn(channel, waiting)
            except (Unavailable, LaneGone) as error:
                log.warning("delayed_messages_wait", channel=channel, error=str(error))
                waiting.clear()  # their leases end, and they come again
                self._forget_lanes(channel)
                await asyncio.sleep(_PAUSE_S)

    async def _turn(self, channel: str, waiting: list[_Waiting]) -> None:
        now = time.time()
        next_at = min((each.head.until_at for each in waiting), default=now + _LONGEST_WAIT_S)
        wait_s = max(0.0, min(next_at - now, _LONGEST_WAIT_S))
        room = dict.fromkeys(await self._find_lanes(channel), MAX_HELD)
        for each in waiting:
            room[each.taken.lane] = room.get(each.taken.lane, 0) - 1
        lanes = [lane for lane, n in room.items() if n > 0]
        if lanes:
            n = min(room[lane] for lane in lanes)
            taken = await self._broker.take(lanes, max_items=n, lease_s=LEASE_S, wait_s=wait_s)
            until = time.monotonic() + LEASE_S
            waiting += [_Waiting(each, *read_head(each.data), until) for each in taken]
        else:
            await asyncio.sleep(wait_s)
        await self._renew(waiting)
        due = [each for each in waiting if each.head.until_at <= time.time()]
        if due:
            due.sort(key=lambda each: (each.head.due_at, each.head.sent_at))
            await self._move(channel, [(each.head, each.body) for each in due])
            waiting[:] = [each for each in waiting if each not in due]
            await self._broker.acknowledge([each.taken for each in due])

    async def _renew(self, waiting: list[_Waiting]) -> None:
        now = time.monotonic()
        old = [each for each in waiting if each.lease_until - now < LEASE_S / 2]
        if not old:
            return
        answers = await self._broker.extend([each.taken for each in old], lease_s=LEASE_S)
        lost = {id(each) for each, is_ours in zip(old, answers, strict=True) if not is_ours}
        for each in old:
            each.lease_until = now + LEASE_S
        waiting[:] = [each for each in waiting if id(each) not in lost]
