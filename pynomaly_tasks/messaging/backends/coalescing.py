"""Calls that come while one is on its way go together in the next: many round trips become few.

A call that comes alone goes at once and alone, so it waits for nobody. That is what makes a hundred
handlers acknowledge in about two round trips, without anybody having to batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from pynomaly_tasks.errors import PynomalyError

T = TypeVar("T")  #: what a call brings
R = TypeVar("R")  #: what each thing that it brings is answered with

#: Of one round trip: a step on the server must not hold up the others for long.
_MOST = 200
_MOST_BYTES = 4_000_000


class Coalescer(Generic[T, R]):
    """Runs ``send(key, things)`` for calls of one key together, in the order of the calls."""

    def __init__(
        self, send: Callable[[Hashable, Sequence[T]], Awaitable[list[R]]], size_bytes: Callable[[T], int]
    ) -> None:
        self._send = send
        self._size_bytes = size_bytes
        self._is_busy = False
        self._waiting: deque[tuple[Hashable, Sequence[T], asyncio.Future[list[R]]]] = deque()
        self._flush: asyncio.Task[None] | None = None

    async def call(self, key: Hashable, things: Sequence[T]) -> list[R]:
        """One answer a thing. Raises what ``send`` raised for the round trip that they were in."""
        if not self._is_busy:
            self._is_busy = True
            try:
                return await self._send(key, things)
            finally:
                self._go_on()
        future: asyncio.Future[list[R]] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, things, future))
        return await future

    def _go_on(self) -> None:
        calls: list[tuple[Sequence[T], asyncio.Future[list[R]]]] = []
        key: Hashable = None
        n = n_bytes = 0
        while self._waiting:
            key_of_next, things, future = self._waiting[0]
            n += len(things)
            n_bytes += sum(map(self._size_bytes, things))
            if calls and (key_of_next != key or n > _MOST or n_bytes > _MOST_BYTES):
                break
            self._waiting.popleft()
            if not future.cancelled():  # by then nobody waits for it, and it was not sent
                key = key_of_next
                calls.append((things, future))
        self._is_busy = bool(calls)
        if calls:
            self._flush = asyncio.get_running_loop().create_task(self._send_together(key, calls))

    async def _send_together(
        self, key: Hashable, calls: list[tuple[Sequence[T], asyncio.Future[list[R]]]]
    ) -> None:
        try:
            answers = await self._send(key, [thing for things, _ in calls for thing in things])
        except BaseException as error:
            for _, future in calls:
                if not future.done():
                    # Each its own: a traceback grows with each place that an error is raised in.
                    is_ours = isinstance(error, PynomalyError)
                    future.set_exception(type(error)(*error.args) if is_ours else error)
            if not isinstance(error, Exception):
                raise
        else:
            at = 0
            for things, future in calls:
                if not future.done():
                    future.set_result(answers[at : at + len(things)])
                at += len(things)
        finally:
            self._go_on()
