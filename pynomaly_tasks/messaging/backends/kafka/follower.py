"""Reads the ledger as long as it is open, and writes to it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import orjson
from aiokafka.errors import OffsetOutOfRangeError

from pynomaly_tasks.errors import BrokerUnavailable, MessagingClosed
from pynomaly_tasks.messaging.backends.kafka.ledger import Ledger
from pynomaly_tasks.messaging.backends.kafka.wire import KafkaWire, TopicGone
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)

#: A process that opens reads at most about twice as many records before it can begin.
SNAPSHOT_EVERY = 5_000
_LOG_APPEND_TIME = 1
_WAIT_S = 0.5
_FETCH_BYTES = 1_048_576
_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0


class Follower:
    """One process's view of the ledger, at most moments old, and exact after `sync`."""

    def __init__(
        self,
        wire: KafkaWire,
        topic: str,
        *,
        timeout_s: float,
        on_change: Callable[[], None],
        snapshot_every: int = SNAPSHOT_EVERY,
        shortens: bool = True,
    ) -> None:
        """``on_change`` is called after the state changed. ``shortens``: Kafka deletes what is asked for."""
        self._shortens = shortens
        self.ledger = Ledger()
        self._wire = wire
        self._topic = topic
        self._timeout_s = timeout_s
        self._on_change = on_change
        self._snapshot_every = snapshot_every
        self._writer = uuid.uuid4().hex[:16]
        self._number = 0
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._position = 0
        self._snapshot_at = 0  #: the newest snapshot holds what was before this offset
        self.snapshot_ms = 0  #: when it was written, by the broker's time; 0: there is none
        self._first_at: int | None = None  #: where the log begins; a snapshot is looked for
        self._held_back: list[Any] = []
        self._reached: set[asyncio.Future[None]] = set()
        self._clock_ms = 0.0  #: the broker's time less the monotonic clock's
        self._task: asyncio.Task[None] | None = None
        self._side: set[asyncio.Task[None]] = set()
        self._is_warned = False

    async def start(self) -> None:
        """Make the ledger where there is none, and read it to its end."""
        await self._wire.make_topic(self._topic)
        self._task = asyncio.create_task(self._follow(), name=f"ledger {self._topic}")
        await self.sync()

    async def stop(self) -> None:
        """Read no more; whoever waits for an answer hears it."""
        tasks = [*self._side, *([self._task] if self._task else [])]
        self._task = None
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        for answer in [*self._answers.values(), *self._reached]:
            if not answer.done():
                answer.set_exception(_closed())
                answer.exception()

    def now_ms(self) -> float:
        """The broker's time, guessed: rather too early than too late."""
        return time.monotonic() * 1000 + self._clock_ms

    async def command(self, step: str, *arguments: Any) -> Any:
        """Write it and say what came of it. After BrokerUnavailable nobody knows."""
        self._check()
        self._number += 1
        number = self._number
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        record = orjson.dumps([self._writer, number, step, *arguments])
        try:
            await self._wire.send([(self._topic, record)])
            return await self._wait(answer)
        finally:
            self._answers.pop(number, None)

    async def sync(self) -> None:
        """Until the state holds everything that was written before this call."""
        self._check()
        try:
            end = await self._wire.end_offset(self._topic)
        except TopicGone as error:
            raise BrokerUnavailable(
                f"Kafka at {self._wire.address.servers} has the ledger {self._topic} no more: "
                "close and open the backend to begin anew"
            ) from error
        deadline = time.monotonic() + self._timeout_s
        while self._position < end or self._first_at is not None:
            if time.monotonic() > deadline:
                raise self._too_late()
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._reached.add(waiter)
            try:
                await self._wait(waiter)
            finally:
                self._reached.discard(waiter)

    async def _wait(self, answer: asyncio.Future[Any]) -> Any:
        await asyncio.wait([answer], timeout=self._timeout_s)
        if not answer.done():
            self._check()
            raise self._too_late()
        return answer.result()

    def _too_late(self) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"Kafka at {self._wire.address.servers} gave no answer: the ledger {self._topic} "
            f"could not be read within {self._timeout_s:g} s"
        )

    def _check(self) -> None:
        if self._task is None:
            raise _closed()
        if self._task.done():
            # Nothing that is known ends it; whatever it was, reading begins anew.
            error = None if self._task.cancelled() else self._task.exception()
            log.error("ledger_reader_ended", topic=self._topic, error=repr(error))
            self._task = asyncio.create_task(self._follow(), name=f"ledger {self._topic}")

    async def _follow(self) -> None:
        pause_s = _PAUSE_S
        is_lost = True
        while True:
            try:
                if is_lost:
                    await self._begin()
                    is_lost = False
                found = await self._wire.fetch(
                    self._topic, self._position, max_bytes=_FETCH_BYTES, wait_s=_WAIT_S, group="ledger"
                )
                pause_s = _PAUSE_S
            except OffsetOutOfRangeError:
                is_lost = True  # it was shortened while this process was away
                continue
            except (BrokerUnavailable, TopicGone) as error:
                log.warning("ledger_not_read", topic=self._topic, error=str(error), next_try_in_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            for record in found.records:
                self._read(record)
            self._position = found.next_offset
            if self._first_at is not None and self._position >= found.end:
                self._give_up_snapshot()
            if found.records:
                newest = found.records[-1]
                self._clock_ms = newest.timestamp - time.monotonic() * 1000
                self._check_clock(newest.timestamp_type)
                self._on_change()
            for waiter in self._reached:
                if not waiter.done():
                    waiter.set_result(None)

    def _check_clock(self, timestamp_type: int) -> None:
        if timestamp_type != _LOG_APPEND_TIME and not self._is_warned:
            self._is_warned = True
            log.warning(
                "leases_go_by_the_clocks_of_processes",
                topic=self._topic,
                why="its message.timestamp.type is not LogAppendTime",
            )

    async def _begin(self) -> None:
        self._position = await self._wire.begin_offset(self._topic)
        self.ledger = Ledger()
        self._snapshot_at = 0
        self._first_at = self._position or None
        self._held_back = []

    def _give_up_snapshot(self) -> None:
        log.error("ledger_has_no_beginning", topic=self._topic, kept_from=self._first_at)
        self._first_at = None
        for record in self._held_back:
            self._apply(record)
        self._held_back = []

    def _read(self, record: Any) -> None:
        as_of, state = _snapshot_in(record.value)
        if state is not None:
            if self._first_at is not None and as_of >= self._first_at:
                self.ledger = Ledger.from_snapshot(state)
                self._first_at = None
                for each in self._held_back:
                    if each.offset >= as_of:
                        self._apply(each)
                self._held_back = []
            self._snapshot_at = max(self._snapshot_at, as_of)
            self.snapshot_ms = record.timestamp
        elif self._first_at is not None:
            self._held_back.append(record)
        else:
            self._apply(record)

    def _apply(self, record: Any) -> None:
        applied = self.ledger.apply(record.offset, record.timestamp, record.value)
        if applied is None:
            return
        writer, number, result = applied
        if writer != self._writer:
            return
        answer = self._answers.get(number)
        if answer is not None and not answer.done():
            answer.set_result(result)
        n_since = record.offset - self._snapshot_at
        # Every process sees the same numbers: the one that wrote this record writes the snapshot.
        if n_since and n_since % self._snapshot_every == 0:
            self._start(self.snapshot())

    def run_beside(self, step: str, *arguments: Any) -> None:
        """`command` whose answer nobody waits for."""
        self._start(self._command_quietly(step, *arguments))

    async def _command_quietly(self, step: str, *arguments: Any) -> None:
        try:
            await self.command(step, *arguments)
        except BrokerUnavailable as error:
            log.warning("ledger_not_written", topic=self._topic, step=step, error=str(error))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._side.add(task)
        task.add_done_callback(self._side.discard)

    async def snapshot(self) -> None:
        """Write the state into the ledger, so that what was before the last one can be deleted."""
        # Between two pieces that are read the state is that before the position.
        state = self.ledger.to_snapshot()
        record = orjson.dumps([self._writer, 0, "snapshot", self._position, state])
        before = self._snapshot_at
        try:
            await self._wire.send([(self._topic, record)])
            if before and self._shortens:
                # Not up to the new one: whoever is a little behind goes on reading.
                await self._wire.delete_before(self._topic, before)
        except BrokerUnavailable as error:
            log.warning("ledger_not_shortened", topic=self._topic, error=str(error))


def _snapshot_in(value: bytes | None) -> tuple[int, dict[str, Any] | None]:
    if value is None or b'"snapshot"' not in value[:64]:
        return 0, None
    try:
        _, _, step, as_of, state = orjson.loads(value)
    except (orjson.JSONDecodeError, ValueError, TypeError):
        return 0, None
    return (as_of, state) if step == "snapshot" and isinstance(state, dict) else (0, None)


def _closed() -> MessagingClosed:
    return MessagingClosed("the Kafka backend is not open; use it in `async with`, or call open()")
