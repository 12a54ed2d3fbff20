"""Looking through a lane: RabbitMQ shows the items of a queue only to who takes them.

So they are taken, looked at and given back, by one process at a time. Their order is that of their names,
which their senders gave them by the clock.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, cast

from aio_pika.abc import AbstractChannel

from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.messaging.backends.rabbitmq.desk import Desk, Hold
from pynomaly_tasks.messaging.backends.rabbitmq.link import Link
from pynomaly_tasks.messaging.plain_broker import Lying, Taken

#: How many items are taken at once, after the first few.
_LOOK = 500
_LOCK_POLL_S = 0.03
_LONGEST_WAY_BACK_S = 2.0
_WAY_BACK_POLL_S = 0.005

Ask = Callable[[Callable[[AbstractChannel], Coroutine[Any, Any, Any]]], Awaitable[Any]]


class Locked(Exception):
    """A queue belongs to another connection."""


class Looker:
    """Looks through lanes, one after the other."""

    def __init__(self, link: Link, name_of: Callable[[str], str], ask: Ask, timeout_s: float) -> None:
        """``ask``: has a question answered on a channel that nothing is held on."""
        self._link = link
        self._name_of = name_of
        self._ask = ask
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()
        self._desk: Desk | None = None
        self._never = asyncio.Event()

    def abandon(self) -> None:
        """The connection is about to be closed."""
        if self._desk is not None:
            self._desk.abandon()

    async def n_waiting(self, lane: str) -> int:
        """How many items nobody holds, as the server counts them."""
        queue = await self._ask(lambda channel: channel.declare_queue(self._name_of(lane), passive=True))
        return int(queue.declaration_result.message_count or 0)

    async def browse(self, lane: str, *, after: str, limit: int) -> list[Lying]:
        """By age. Everything in the lane is taken for a moment, and given back."""
        async with self._look(lane) as batches:
            found = [lying async for batch in batches for _, lying in batch if lying.key > after]
        return heapq.nsmallest(limit, found, key=lambda lying: lying.key)

    async def find(self, lane: str, key: str) -> Lying | None:
        """As `browse`, up to the item."""
        async with self._look(lane) as batches:
            async for batch in batches:
                for _, lying in batch:
                    if lying.key == key:
                        return lying
        return None

    async def remove(self, lane: str, key: str) -> bool:
        """As `find`, and acknowledged."""
        async with self._look(lane) as batches:
            async for batch in batches:
                for taken, lying in batch:
                    if lying.key == key:
                        hold = _hold(taken)
                        return (await hold.desk.acknowledge([hold]))[0]
        return False

    @asynccontextmanager
    async def _look(self, lane: str) -> AsyncIterator[AsyncIterator[list[tuple[Taken, Lying]]]]:
        """All that lies in a lane, in batches; given back in the end, but for what was acknowledged."""
        async with self._turn, self._alone(lane):
            if self._desk is None or not self._desk.is_open:
                self._desk = await Desk.make(self._link, self._name_of)
            desk = self._desk
            try:
                yield self._batches(desk, lane)
            finally:
                if held := list(desk.held.values()):
                    n = await self.n_waiting(lane) + len(held)
                    await desk.release_all(held)
                    await self._wait_until_back(lane, n)

    async def _wait_until_back(self, lane: str, n: int) -> None:
        """A server gives back more than a few items with some delay, and the next to look would miss them."""
        end = time.monotonic() + _LONGEST_WAY_BACK_S
        while await self.n_waiting(lane) < n and time.monotonic() < end:
            await asyncio.sleep(_WAY_BACK_POLL_S)

    async def _batches(self, desk: Desk, lane: str) -> AsyncIterator[list[tuple[Taken, Lying]]]:
        n = 1  # mostly the first is wanted
        while batch := await desk.take(
            [lane], max_items=n, lease_s=self._timeout_s, wait_s=0.0, hurry=self._never
        ):
            yield [(taken, _lying(taken)) for taken in batch]
            n = min(10 * n, _LOOK)

    @asynccontextmanager
    async def _alone(self, lane: str) -> AsyncIterator[None]:
        """While one looks through a lane, others would miss what it has in hand.

        A queue that belongs to one connection is the lock: it ends with the connection.
        """
        name = self._name_of(f"/looking/{lane}")
        end = time.monotonic() + self._timeout_s
        while True:
            try:
                await self._ask(lambda channel: channel.declare_queue(name, exclusive=True))
                break
            except Locked:
                if time.monotonic() > end:
                    raise BrokerUnavailable(
                        f"another process looked through {lane} for {self._timeout_s:g} s; try again"
                    ) from None
                await asyncio.sleep(_LOCK_POLL_S)
        try:
            yield
        finally:
            await self._ask(lambda channel: channel.queue_delete(name))


def _lying(taken: Taken) -> Lying:
    hold = _hold(taken)
    return Lying(key=hold.name, data=taken.data, drop=hold.drop)


def _hold(taken: Taken) -> Hold:
    return cast("Hold", taken.token)
