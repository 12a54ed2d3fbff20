"""A channel that items are taken on, and what is held on it.

RabbitMQ knows no lease: an item is held as long as the channel that it came on lives. So what a dead
process held comes again when its connection breaks, and a lease that ends in a live process is ended
by that process, which gives the item back.

Nothing is fetched that nobody asked for. Few items are got one by one; many come to a consumer that is taken
away when it has its fill; and while somebody waits, a consumer for one item stands.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from aio_pika.abc import AbstractChannel
from aiormq.abc import AbstractChannel as PlainChannel
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic

from pynomaly_tasks.errors import BrokerUnavailable, MessagingClosed
from pynomaly_tasks.messaging.backends.coalescing import Coalescer
from pynomaly_tasks.messaging.backends.rabbitmq.dropping import find_drop, name_of
from pynomaly_tasks.messaging.backends.rabbitmq.link import Link
from pynomaly_tasks.messaging.backends.rabbitmq.settled import Settled
from pynomaly_tasks.messaging.plain_broker import Drop, LaneGone, Taken
from pynomaly_tasks.messaging.topology import is_for_dead_letters

#: How often a lane is looked at that no consumer can be set on without taking too much.
_POLL_S = 0.05
_MAX_PREFETCH = 1_000
_LONGEST_WAY_BACK_S = 0.05
_WAY_BACK_POLL_S = 0.002
#: Getting so few is quicker than setting a consumer for them.
_FEW = 4
#: Others may take what a consumer was set for.
_LONGEST_FILL_S = 0.1


@dataclass(slots=True, eq=False)
class Hold:
    """One item in hand; the token of a `Taken`."""

    desk: Desk
    lane: str
    name: str  #: of the item
    tag: int  #: of the delivery, on the desk's channel
    lease_until: float  #: by the monotonic clock
    drop: Drop | None = None
    timer: asyncio.TimerHandle | None = None

    @property
    def is_ours(self) -> bool:
        """Neither settled, nor given back, nor lost with the channel."""
        return self.desk.held.get(self.tag) is self and self.desk.is_open


@dataclass(slots=True)
class _Wait:
    """What came while consumers stood."""

    lease_s: float
    n_wanted: int = 1
    taken: dict[str, list[Taken]] = field(default_factory=dict)
    n: int = 0
    came: asyncio.Event = field(default_factory=asyncio.Event)  #: something came, or a lane went
    filled: asyncio.Event = field(default_factory=asyncio.Event)  #: as much came as was wanted
    consumers: dict[str, str] = field(default_factory=dict)  #: lane by consumer tag
    gone: set[str] = field(default_factory=set)  #: lanes that were erased meanwhile
    is_over: bool = False


class Desk:
    """One channel. One `take` at a time; settling at any time."""

    def __init__(
        self, link: Link, channel: AbstractChannel, plain: PlainChannel, name_of: Callable[[str], str]
    ) -> None:
        """``plain``: what ``channel`` stands on; ``name_of``: the server's name of a lane."""
        self.held: dict[int, Hold] = {}
        self._link = link
        self._channel = channel
        # aio-pika hands each delivery on in a task of a task, and so after the answer to the cancel that
        # follows; on the channel below they come in the server's order.
        self._plain = plain
        self._name_of = name_of
        self._prefetch = 0
        self._wait: _Wait | None = None
        self._settled = Settled()
        self._acknowledgements = Coalescer(self._acknowledge, lambda _: 1)
        self._giving_back: set[asyncio.Task[None]] = set()
        self._closed = asyncio.Event()
        channel.close_callbacks.add(self._on_close)

    @classmethod
    async def make(cls, link: Link, name_of: Callable[[str], str]) -> Desk:
        """On a channel of its own."""
        channel = await link.channel()
        async with link.answered():
            plain = await channel.get_underlay_channel()
        desk = cls(link, channel, plain, name_of)
        plain.on_consumer_cancel_callbacks.add(desk._on_cancel)
        return desk

    @property
    def is_open(self) -> bool:
        """False as soon as what was held on it came loose."""
        return not self._closed.is_set() and not self._channel.is_closed

    def _on_close(self, *_: object) -> None:
        self._closed.set()

    def _on_cancel(self, frame: Any) -> None:
        if self._wait is not None and frame.consumer_tag in self._wait.consumers:
            self._wait.gone.add(self._wait.consumers[frame.consumer_tag])
            self._wait.came.set()

    async def close(self) -> None:
        """Give the channel back; what is held comes again."""
        self.abandon()
        async with self._link.answered():
            await self._channel.close()

    async def flush(self) -> None:
        """Before closing: until what is on its way is acknowledged."""
        await self._acknowledgements.flush()

    def abandon(self) -> None:
        """Watch no lease any more: the channel ends with its connection."""
        for hold in list(self.held.values()):
            self._drop(hold)
        for task in self._giving_back:
            task.cancel()

    async def take(
        self, lanes: Sequence[str], *, max_items: int, lease_s: float, wait_s: float, hurry: asyncio.Event
    ) -> list[Taken]:
        """As `PlainBroker.take`; ``hurry`` ends the wait."""
        end = time.monotonic() + wait_s
        taken: list[Taken] = []
        for lane in lanes:
            taken += await self._take_now(lane, max_items - len(taken), lease_s)
            if len(taken) == max_items:
                return taken
        if not taken and wait_s > 0 and not hurry.is_set():
            taken = await self._take_later(lanes, max_items, lease_s, end, hurry)
        return taken

    async def _take_now(self, lane: str, n: int, lease_s: float) -> list[Taken]:
        taken = await self._get(lane, 1, lease_s)
        if not taken or n == 1:
            return taken
        # Asked only now: what was given back a moment ago is got, and not yet counted.
        n_waiting, n = await self._n_waiting(lane), min(n - 1, _MAX_PREFETCH)
        if n_waiting < n or n < _FEW:
            return taken + await self._get(lane, min(n, n_waiting), lease_s)
        # There is enough, so a consumer has its fill at once and nothing else is on its way to it.
        wait = _Wait(lease_s, n_wanted=n)
        await self._begin(wait, [lane], n)
        await _first(_LONGEST_FILL_S, wait.filled, self._closed)
        await self._end(wait)
        return taken + wait.taken.get(lane, [])

    async def _get(self, lane: str, n: int, lease_s: float) -> list[Taken]:
        taken: list[Taken] = []
        while len(taken) < n:
            async with self._link.answered():
                message = await self._plain.basic_get(self._name_of(lane))
            if isinstance(message.delivery, Basic.GetEmpty):
                break
            taken.append(self._hold(lane, message, lease_s))
        return taken

    async def _take_later(
        self, lanes: Sequence[str], max_items: int, lease_s: float, end: float, hurry: asyncio.Event
    ) -> list[Taken]:
        # One consumer for one item each, so that together they never take more than may be taken.
        watched, polled = list(lanes[-max_items:]), list(lanes[:-max_items])
        wait = _Wait(lease_s)
        await self._begin(wait, watched, 1)
        found = False
        while not (found or wait.came.is_set() or hurry.is_set() or self._closed.is_set()):
            left_s = end - time.monotonic()
            if left_s <= 0:
                break
            await _first(min(left_s, _POLL_S) if polled else left_s, wait.came, hurry, self._closed)
            found = await self._is_any_waiting(polled)
        await self._end(wait)
        # What came may have been the first of many.
        for lane in lanes if found or wait.n else ():
            if wait.n < max_items:
                more = await self._take_now(lane, max_items - wait.n, lease_s)
                wait.taken.setdefault(lane, []).extend(more)
                wait.n += len(more)
        return [each for lane in lanes for each in wait.taken.get(lane, [])]

    async def _is_any_waiting(self, lanes: Sequence[str]) -> bool:
        for lane in lanes:
            if await self._n_waiting(lane):
                return True
        return False

    async def _n_waiting(self, lane: str) -> int:
        async with self._link.answered():
            declared = await self._plain.queue_declare(self._name_of(lane), passive=True)
        return declared.message_count or 0

    async def _begin(self, wait: _Wait, lanes: Sequence[str], prefetch: int) -> None:
        """Set a consumer on each lane."""
        self._wait = wait
        async with self._link.answered():
            if prefetch != self._prefetch:
                await self._plain.basic_qos(prefetch_count=prefetch)
                self._prefetch = prefetch
            for lane in lanes:
                tag = uuid.uuid4().hex
                wait.consumers[tag] = lane
                await self._plain.basic_consume(
                    self._name_of(lane), partial(self._come, wait, lane), consumer_tag=tag
                )

    async def _come(self, wait: _Wait, lane: str, message: DeliveredMessage) -> None:
        taken = self._hold(lane, message, wait.lease_s)
        if wait.is_over:
            await self._give_back_late(cast("Hold", taken.token))
            return
        wait.taken.setdefault(lane, []).append(taken)
        wait.n += 1
        wait.came.set()
        if wait.n == wait.n_wanted:
            wait.filled.set()

    async def _end(self, wait: _Wait) -> None:
        """Take the consumers away; all that was sent to them is there then.

        What the server is just sending at that moment it takes back, and counts as handed out; so this
        is done when the consumers have their fill, or when there was nothing for them.
        """
        async with self._link.answered():
            for tag in wait.consumers:
                await self._plain.basic_cancel(tag)
        wait.is_over = True
        self._wait = None
        if wait.gone and not wait.n:
            raise LaneGone(f"erased while it was waited on: {', '.join(sorted(wait.gone))}")

    def _hold(self, lane: str, message: DeliveredMessage, lease_s: float) -> Taken:
        tag = message.delivery_tag or 0
        drop = find_drop(message) if is_for_dead_letters(lane) else None
        hold = Hold(self, lane, name_of(message, drop), tag, time.monotonic() + lease_s, drop)
        self.held[tag] = hold
        self._watch(hold)
        return Taken(lane=lane, token=hold, data=message.body, n_earlier=_n_earlier(message))

    async def acknowledge(self, holds: Sequence[Hold]) -> list[bool]:
        """They are done, when the server has heard so."""
        return await self._acknowledgements.call(None, holds)

    async def _acknowledge(self, _: Hashable, holds: Sequence[Hold]) -> list[bool]:
        answers, tags = [], set[int]()
        for hold in holds:
            answers.append(hold.is_ours)
            if hold.is_ours:
                self._drop(hold)
                tags.add(hold.tag)
        # As few as possible: a quorum queue's client keeps what comes after 32 that are not done yet, and
        # forgets it when the channel ends.
        reached = self._settled.reach(tags)
        frames = [(reached, True)] if reached else []
        frames += [(tag, False) for tag in sorted(tags) if tag > reached]
        for tag, multiple in frames:
            async with self._link.answered():
                await self._plain.basic_ack(tag, multiple=multiple, wait=False)
        self._settled.add(*tags)
        return await self._heard(holds, answers)

    async def _heard(self, holds: Sequence[Hold], answers: list[bool]) -> list[bool]:
        """The answers, when the server has heard what was said; False where the lane is gone.

        A settlement has no answer of its own, but a question that comes after it in the same channel has.
        """
        for lane in {hold.lane for hold, is_ours in zip(holds, answers, strict=True) if is_ours}:
            try:
                async with self._link.answered():
                    await self._plain.queue_declare(self._name_of(lane), passive=True)
            except LaneGone:
                # That closed the channel, behind all that was said.
                return [is_ours and hold.lane != lane for hold, is_ours in zip(holds, answers, strict=True)]
        return answers

    async def release(self, hold: Hold) -> bool:
        """Give it back."""
        if not hold.is_ours:
            return False
        # Not ours from here on: nobody may extend or acknowledge what is on its way back.
        self._drop(hold)
        try:
            n = await self._n_waiting(hold.lane)
            await self._reject(hold)
            (was_ours,) = await self._heard([hold], [True])
            # The server counts it as waiting a moment later; no longer than this if somebody took it at once.
            end = time.monotonic() + _LONGEST_WAY_BACK_S
            while was_ours and await self._n_waiting(hold.lane) <= n and time.monotonic() < end:
                await asyncio.sleep(_WAY_BACK_POLL_S)
        except LaneGone:
            return False
        return was_ours

    async def release_all(self, holds: Sequence[Hold]) -> list[bool]:
        """Give them back, the first to be handed out first."""
        answers = []
        for hold in holds:
            answers.append(hold.is_ours)
            if hold.is_ours:
                self._drop(hold)
                await self._reject(hold)
        return await self._heard(holds, answers)

    async def _reject(self, hold: Hold) -> None:
        # One by one: several at once come again in any order. And not by nack, which newer servers do not
        # count as a delivery that failed.
        async with self._link.answered():
            await self._plain.basic_reject(hold.tag, requeue=True, wait=False)
        self._settled.add(hold.tag)

    def extend(self, hold: Hold, lease_s: float) -> bool:
        """Let its lease end ``lease_s`` from now."""
        if not hold.is_ours:
            return False
        hold.lease_until = time.monotonic() + lease_s
        self._watch(hold)
        return True

    def forget(self, lane: str) -> None:
        """The lane was erased, with what is held of it."""
        for hold in [hold for hold in self.held.values() if hold.lane == lane]:
            self._drop(hold)

    def _drop(self, hold: Hold) -> None:
        del self.held[hold.tag]
        if hold.timer is not None:
            hold.timer.cancel()

    def _watch(self, hold: Hold) -> None:
        if hold.timer is not None:
            hold.timer.cancel()
        left_s = max(0.0, hold.lease_until - time.monotonic())
        hold.timer = asyncio.get_running_loop().call_later(left_s, self._on_lease_end, hold)

    def _on_lease_end(self, hold: Hold) -> None:
        if hold.is_ours:
            task = asyncio.create_task(self._give_back_late(hold))
            self._giving_back.add(task)
            task.add_done_callback(self._giving_back.discard)

    async def _give_back_late(self, hold: Hold) -> None:
        # A channel that is gone has given it back.
        with suppress(BrokerUnavailable, MessagingClosed):
            await self.release(hold)


def _n_earlier(message: DeliveredMessage) -> int:
    """How often a quorum queue handed it out before; newer servers count more kinds of it in another header."""
    headers = message.header.properties.headers or {}
    counts = [headers.get(name) for name in ("x-acquired-count", "x-delivery-count")]
    return max((count for count in counts if isinstance(count, int)), default=int(bool(message.redelivered)))


async def _first(timeout_s: float, *events: asyncio.Event) -> None:
    """Until one of them is set."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
