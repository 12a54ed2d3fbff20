"""Calls that come while one is on its way go together in the next: many round trips become few.

A call that comes alone goes at once and alone, so it waits for nobody. That is what makes a hundred
handlers acknowledge in about two round trips, without anybody having to batch.

`Coalescer` has one round trip under way at a time, whatever the key, and keeps the order of all calls. `Coalescers`
has one for each key: nobody waits for what another key's server, lane or host is slow with.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

from pynomaly_tasks.errors import PynomalyError

T = TypeVar("T")  #: what a call brings
R = TypeVar("R")  #: what each thing that it brings is answered with
E = TypeVar("E", bound=BaseException)
K = TypeVar("K", bound=Hashable)  #: what they must have in common to go together

#: How long a backend that closes waits for what is on its way.
CLOSE_S = 2.0
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
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._waiting: deque[tuple[Hashable, Sequence[T], asyncio.Future[list[R]]]] = deque()
        self._flush: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Something is on its way."""
        return not self._is_idle.is_set()

    async def call(self, key: Hashable, things: Sequence[T]) -> list[R]:
        """One answer a thing. Raises what ``send`` raised for the round trip that they were in."""
        if not self.is_busy:
            self._is_idle.clear()
            try:
                return await self._send(key, things)
            finally:
                self._go_on()
        future: asyncio.Future[list[R]] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, things, future))
        return await future

    async def flush(self) -> None:
        """Before closing: until nothing is on its way and nothing waits to be; 2 s at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._is_idle.wait()

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
        if not calls:
            self._is_idle.set()
        else:
            self._flush = asyncio.get_running_loop().create_task(self._send_together(key, calls))

    async def _send_together(
        self, key: Hashable, calls: list[tuple[Sequence[T], asyncio.Future[list[R]]]]
    ) -> None:
        try:
            answers = await self._send(key, [thing for things, _ in calls for thing in things])
        except BaseException as error:
            for _, future in calls:
                if not future.done():
                    future.set_exception(_own(error))
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


class Coalescers(Generic[K, T, R]):
    """A `Coalescer` for each key that is in use.

    ``send(key, things)`` may answer a thing with an error, which is then raised to its call alone.
    """

    def __init__(
        self,
        send: Callable[[K, Sequence[T]], Awaitable[Sequence[R | PynomalyError]]],
        key_of: Callable[[T], K],
    ) -> None:
        self._send = send
        self._key_of = key_of
        self._by_key: dict[K, Coalescer[T, R | PynomalyError]] = {}

    async def call(self, things: Sequence[T]) -> list[R]:
        """One answer a thing. Raises what one of them was answered with, or what ``send`` raised for its round trip."""
        by_key: dict[K, list[int]] = {}
        for n, thing in enumerate(things):
            by_key.setdefault(self._key_of(thing), []).append(n)
        if len(by_key) == 1:
            (key,) = by_key
            return [_raised(answer) for answer in await self._call(key, things)]
        told = await asyncio.gather(
            *(self._call(key, [things[n] for n in numbers]) for key, numbers in by_key.items()),
            return_exceptions=True,
        )
        answers: dict[int, R] = {}
        for numbers, answer in zip(by_key.values(), told, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            for n, each in zip(numbers, answer, strict=True):
                answers[n] = _raised(each)
        return [answers[n] for n in range(len(things))]

    async def _call(self, key: K, things: Sequence[T]) -> list[R | PynomalyError]:
        coalescer = self._by_key.get(key)
        if coalescer is None:
            coalescer = self._by_key[key] = Coalescer(partial(self._send_of, key), lambda _: 0)
        try:
            return await coalescer.call(None, things)
        finally:
            if not coalescer.is_busy and self._by_key.get(key) is coalescer:
                del self._by_key[key]

    async def _send_of(self, key: K, _: Hashable, things: Sequence[T]) -> list[R | PynomalyError]:
        return list(await self._send(key, things))

    async def flush(self) -> None:
        """As `Coalescer.flush`, of all keys."""
        await asyncio.gather(*(each.flush() for each in self._by_key.values()))


def _raised(answer: R | PynomalyError) -> R:
    if isinstance(answer, PynomalyError):
        raise _own(answer)
    return answer


def _own(error: E) -> E:
    """Each caller its own: a traceback grows with each place that an error is raised in."""
    return type(error)(*error.args) if isinstance(error, PynomalyError) else error
