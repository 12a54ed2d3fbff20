"""Publishing the application's own events: one producer a process, in a thread with a loop of its own.

An event goes straight to the log. While that is away it goes to the outbox, from where the relay
publishes it, and so does whatever follows it with the same key until the relay has done so: the order
of a key, as one process published it, holds.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from functools import cache
from typing import Protocol
from weakref import WeakSet

from pynomaly_tasks.core.event import Event
from pynomaly_tasks.errors import EventLogUnavailable, EventRefused, PynomalyError, StoreUnavailable
from pynomaly_tasks.events.ports import Producer, Record
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)

MAX_WAITING = 10_000
MAX_WAITING_BYTES = 64 * 1024 * 1024
_BATCH = 1_000
_CLOSE_TIMEOUT_S = 5.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 10.0
_STORE_RETRY_S = 0.5
_LOOK_EVERY_S = 0.5
#: So many keys are told apart; with more of them, all events take the way of the outbox.
_MAX_DIVERTED = 5_000

Key = tuple[str, str]  #: topic and key


class EventOutbox(Protocol):
    """The store's side; see `store.event_transactions`. Each call but the first two may raise StoreUnavailable."""

    def is_in_transaction(self) -> bool:
        """Whether the caller has a transaction open."""

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call it then."""

    def add_ready_events(self, events: Sequence[Event]) -> list[int]:
        """Numbers of the rows."""

    def find_unsent(self, numbers: Sequence[int]) -> set[int]:
        """Those that the relay has still to publish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """An event that was accepted."""

    event: Event
    record: Record
    n_bytes: int
    done: Future[None]
    is_awaited: bool  #: somebody is told what becomes of it

    @property
    def key(self) -> Key:
        return self.event.topic, self.event.key

    def settle(self, error: PynomalyError | None) -> None:
        try:
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)
        except InvalidStateError:
            pass  # whoever waited has gone


class EventPublisher:
    """Publishes the events of one process; see `publish`. Connects at the first event, and anew after a fork."""

    def __init__(
        self,
        build_producer: Callable[[], Producer],
        outbox: EventOutbox,
        encode: Callable[[Event], Record],
        ring: Callable[[], None],
        *,
        max_waiting: int = MAX_WAITING,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        """``ring`` wakes the relay."""
        self._build_producer = build_producer
        self._outbox = outbox
        self._encode = encode
        self._ring = ring
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._start_anew()

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._n_waiting_bytes = 0
        self._diverted: dict[Key, int] = {}  #: to the number of the newest row in the outbox
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._close_at_s: float | None = None
        self._looked_at_s = 0.0
        self._in_hand: Sequence[_Waiting] = []

    def publish(self, event: Event, *, is_awaited: bool) -> Future[None]:
        """Accept an event; the future is done when the log or the outbox has it, or when neither takes it.

        In an open transaction it is written there, and done at once. Otherwise it waits in this process'
        memory: a process that is killed loses what is not done. Raises EventRefused, and
        EventLogUnavailable when too many events wait.
        """
        if self._pid != os.getpid():
            self._start_anew()  # what the parent process has accepted, it publishes itself
        record = self._encode(event)
        done: Future[None] = Future()
        if self._outbox.is_in_transaction():
            (number,) = self._outbox.add_ready_events([event])
            self._outbox.after_commit(lambda: self._note_committed({(event.topic, event.key): number}))
            done.set_result(None)
            return done
        n_bytes = len(record.value or b"") + len(record.key or b"")
        item = _Waiting(event=event, record=record, n_bytes=n_bytes, done=done, is_awaited=is_awaited)
        with self._lock:
            self._accept(item)
        return done

    def _accept(self, item: _Waiting) -> None:
        if self._close_at_s is not None:
            raise EventLogUnavailable("this process ends; it publishes nothing more")
        if (
            len(self._waiting) >= self._max_waiting
            or self._n_waiting_bytes + item.n_bytes > self._max_waiting_bytes
        ):
            raise EventLogUnavailable(
                f"{len(self._waiting):,} events ({self._n_waiting_bytes:,} bytes) of this process wait to be "
                f"published, at most {self._max_waiting:,} ({self._max_waiting_bytes:,} bytes) may: publish "
                "with wait=True, or try again later"
            )
        self._waiting.append(item)
        self._n_waiting_bytes += item.n_bytes
        if self._thread is None:
            self._thread = threading.Thread(target=self._main, name="publish events", daemon=True)
            self._thread.start()
            _close_at_exit(self)
        elif self._loop is not None:
            self._loop.call_soon_threadsafe(self._news.set)

    def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> None:
        """Publish what waits, and disconnect. What the log has not taken by then goes to the outbox."""
        if self._pid != os.getpid():
            return
        with self._lock:
            thread = self._thread
            if self._close_at_s is None:
                self._close_at_s = time.monotonic() + timeout_s
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._news.set)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s * 3)

    def _note_committed(self, rows: Mapping[Key, int]) -> None:
        with self._lock:
            self._diverted |= rows
        self._ring()

    # In the thread.

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        finally:
            # Empty and closing, unless a mistake of ours has ended it: then nobody waits for ever.
            with self._lock:
                self._thread = self._loop = None
                left, self._waiting, self._n_waiting_bytes = self._waiting, deque(), 0
            for item in (*self._in_hand, *left):
                item.settle(EventLogUnavailable("publishing ended unexpectedly; see the log of this process"))

    async def _run(self) -> None:
        with self._lock:
            self._loop = asyncio.get_running_loop()
        sending = _Sending(self._build_producer())
        try:
            while (batch := await self._next_batch()) is not None:
                self._in_hand = batch
                await self._publish(batch, sending)
                self._in_hand = []
        finally:
            await sending.stop()

    async def _next_batch(self) -> list[_Waiting] | None:
        """None when there is nothing more, and there never will be."""
        while True:
            with self._lock:
                self._news.clear()
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH))]
                self._n_waiting_bytes -= sum(item.n_bytes for item in batch)
                if not batch and self._close_at_s is not None:
                    return None
            if batch:
                return batch
            await self._news.wait()

    async def _publish(self, batch: Sequence[_Waiting], sending: _Sending) -> None:
        self._look_what_was_sent()
        is_late = self._close_at_s is not None and time.monotonic() >= self._close_at_s
        straight: list[_Waiting] = []
        if not is_late and sending.is_worth_trying():
            with self._lock:
                straight = [item for item in batch if not self._is_diverted(item.key)]
        answers = await sending.send([item.record for item in straight], self._time_left_s())
        settled = set()
        for item, answer in zip(straight, answers, strict=True):
            # What nobody is told of goes to the outbox also when it is refused: the relay makes it a dead letter.
            if answer is None or (isinstance(answer, EventRefused) and item.is_awaited):
                item.settle(answer)
                settled.add(item.event.id)
        rest = [item for item in batch if item.event.id not in settled]
        if rest:
            await self._divert(rest)

    def _time_left_s(self) -> float | None:
        return None if self._close_at_s is None else max(self._close_at_s - time.monotonic(), 0.1)

    def _is_diverted(self, key: Key) -> bool:
        return key in self._diverted or len(self._diverted) >= _MAX_DIVERTED

    def _look_what_was_sent(self) -> None:
        """Let keys whose events the relay has published take the straight way again."""
        with self._lock:
            rows = dict(self._diverted)
        if not rows or time.monotonic() < self._looked_at_s + _LOOK_EVERY_S:
            return
        self._looked_at_s = time.monotonic()
        try:
            unsent = self._outbox.find_unsent(list(rows.values()))
        except StoreUnavailable:
            return
        with self._lock:
            for key, number in rows.items():
                if number not in unsent and self._diverted.get(key) == number:
                    del self._diverted[key]

    async def _divert(self, items: list[_Waiting]) -> None:
        """Write these to the outbox. Blocks this thread's loop, which has nothing else to do."""
        while items:
            try:
                numbers = self._outbox.add_ready_events([item.event for item in items])
            except StoreUnavailable as error:
                items = self._give_up_awaited(items, error)
                if not items:
                    return
                if self._close_at_s is not None and time.monotonic() >= self._close_at_s:
                    log.error("events_lost", reason=str(error), event_ids=[item.event.id for item in items])
                    return
                await asyncio.sleep(_STORE_RETRY_S)
            else:
                self._note_committed({item.key: number for item, number in zip(items, numbers, strict=True)})
                for item in items:
                    item.settle(None)
                return

    @staticmethod
    def _give_up_awaited(items: Sequence[_Waiting], error: StoreUnavailable) -> list[_Waiting]:
        """Tell those who wait that neither the log nor the store takes their events; the others stay."""
        for item in items:
            if item.is_awaited:
                item.settle(EventLogUnavailable(f"neither the log of events nor the outbox took it: {error}"))
        return [item for item in items if not item.is_awaited]


_publishers: WeakSet[EventPublisher] = WeakSet()


def _close_at_exit(publisher: EventPublisher) -> None:
    _publishers.add(publisher)
    _register_at_exit()


@cache
def _register_at_exit() -> None:
    # When `atexit` runs, the threads are gone in which a connection looks up its host. What `threading`
    # calls at its own end, the newest first, comes before those end: they are registered by this import.
    import concurrent.futures.thread

    _ = concurrent.futures.thread
    register = getattr(threading, "_register_atexit", atexit.register)
    register(_close_all)


def _close_all() -> None:
    for publisher in list(_publishers):
        publisher.close()


class _Sending:
    """The producer, and when it is worth trying."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._is_started = False
        self._away_until_s = 0.0
        self._pause_s = 0.0

    def is_worth_trying(self) -> bool:
        return time.monotonic() >= self._away_until_s

    async def send(
        self, records: Sequence[Record], timeout_s: float | None
    ) -> Sequence[PynomalyError | None]:
        if not records:
            return []
        try:
            async with asyncio.timeout(timeout_s):
                if not self._is_started:
                    await self._producer.start()
                    self._is_started = True
                answers = await self._producer.send(records)
        except (PynomalyError, TimeoutError) as error:
            unknown = EventLogUnavailable(str(error) or "out of time")
            answers = [unknown] * len(records)
        away = next((answer for answer in answers if isinstance(answer, EventLogUnavailable)), None)
        if away is None:
            if self._pause_s:
                log.info("event_log_found_again")
            self._pause_s = 0.0
        else:
            if not self._pause_s:
                log.warning("event_log_away_events_go_to_the_outbox", reason=str(away))
            self._pause_s = min(max(_FIRST_PAUSE_S, self._pause_s * 2), _LONGEST_PAUSE_S)
            self._away_until_s = time.monotonic() + self._pause_s
        return answers

    async def stop(self) -> None:
        await self._producer.stop()
