"""Applying the messages of one partition, in order, whatever it takes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pynomaly_tasks.core.event import Event
from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.errors import BadEvent, EventLogUnavailable
from pynomaly_tasks.events.consumer_metrics import ConsumerMetrics
from pynomaly_tasks.events.dead_letters import LetterBox
from pynomaly_tasks.events.effect import Effect
from pynomaly_tasks.events.ports import Partition, StoredRecord
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)

HANDLER_FAILED = "handler_failed"  #: the reason of a dead letter that is an event like any other


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupParts:
    """What every partition of a group is worked on with."""

    name: str
    effect: Effect
    decode: Callable[[StoredRecord], Event]  #: raises BadEvent
    letters: LetterBox
    metrics: ConsumerMetrics
    max_attempts: int
    backoff: RetryPolicy


class _Stopping(Exception):
    """The partition goes to another member, or the process ends; what is left is left to the next."""


class PartitionWork:
    """The messages of one partition that wait to be applied, and the task that applies them."""

    def __init__(self, partition: Partition, group: GroupParts, progress: asyncio.Event) -> None:
        """``progress`` is set whenever `applied_before` has moved."""
        self.partition = partition
        self.applied_before: int | None = None  #: everything before this offset is done with
        self._group = group
        self._progress = progress
        self._waiting: deque[StoredRecord] = deque()
        self._more = asyncio.Event()
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"{group.name} of {partition}")

    @property
    def n_waiting(self) -> int:
        """Messages that were read and not begun."""
        return len(self._waiting)

    def offer(self, records: Sequence[StoredRecord]) -> None:
        """More messages, behind those that wait."""
        self._waiting.extend(records)
        self._group.metrics.read.labels(self._group.name, self.partition.topic).inc(len(records))
        self._more.set()

    def check(self) -> None:
        """Raise what ended the work, if anything did."""
        if self._task.done():
            self._task.result()

    async def finish(self, timeout_s: float) -> None:
        """End what is in hand and begin nothing more; cut off after that long."""
        self._stop.set()
        self._more.set()
        _, late = await asyncio.wait({self._task}, timeout=timeout_s)
        if late:
            log.warning("partition_cut_off", group=self._group.name, partition=str(self.partition))
            await self._abandon()

    async def _abandon(self) -> None:
        # Python 3.11's wait_for can swallow a cancellation, so until it has worked.
        while not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=0.1)

    async def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if not self._waiting:
                    self._more.clear()
                    await self._more.wait()
                    continue
                n = min(len(self._waiting), max(1, self._group.effect.batch_size))
                await self._apply_records([self._waiting.popleft() for _ in range(n)])
        except _Stopping:
            pass

    async def _apply_records(self, records: Sequence[StoredRecord]) -> None:
        good: list[tuple[StoredRecord, Event]] = []
        for record in records:
            try:
                good.append((record, self._group.decode(record)))
            except BadEvent as error:
                await self._apply(good)
                good = []
                await self._bury(record, error.reason, str(error), 1)
        await self._apply(good)

    async def _apply(self, batch: Sequence[tuple[StoredRecord, Event]]) -> None:
        if not batch:
            return
        n_failed = n_away = 0
        while True:
            try:
                await self._apply_once([event for _, event in batch])
            except Exception as error:
                if getattr(error, "retryable", False):
                    n_away += 1
                    await self._wait_for_neighbour(error, n_away, batch[0][0])
                elif len(batch) > 1:
                    # Each by itself: only those that fail are kept back.
                    for one in batch:
                        await self._apply([one])
                    return
                else:
                    n_failed += 1
                    if n_failed >= self._group.max_attempts:
                        await self._bury(
                            batch[0][0], HANDLER_FAILED, f"{type(error).__name__}: {error}", n_failed
                        )
                        return
                    await self._wait_to_try_again(error, n_failed, batch[0])
            else:
                break
        self._done_with(batch[-1][0])

    async def _apply_once(self, events: Sequence[Event]) -> None:
        group, begun_s = self._group, time.perf_counter()
        n_new = await group.effect.apply(events)
        group.metrics.apply_s.labels(group.name).observe(time.perf_counter() - begun_s)
        group.metrics.applied.labels(group.name, self.partition.topic).inc(n_new)
        now = datetime.now(UTC)
        for event in events:
            group.metrics.delay_s.labels(group.name).observe(
                max(0.0, (now - event.occurred_at).total_seconds())
            )

    async def _wait_for_neighbour(self, error: Exception, n_away: int, record: StoredRecord) -> None:
        """However long it takes: the event is fine, and every other one would fare the same."""
        self._group.metrics.retried.labels(self._group.name, self.partition.topic, "neighbour").inc()
        if n_away == 1:
            log.warning("events_wait", reason=f"{type(error).__name__}: {error}", **self._place(record))
        await self._pause(n_away)

    async def _wait_to_try_again(
        self, error: Exception, n_failed: int, one: tuple[StoredRecord, Event]
    ) -> None:
        record, event = one
        self._group.metrics.retried.labels(self._group.name, self.partition.topic, "handler").inc()
        log.warning(
            "event_failed",
            attempt=n_failed,
            event_id=event.id,
            type=event.type,
            exc_info=error if n_failed == 1 else None,
            reason=f"{type(error).__name__}: {error}",
            **self._place(record),
        )
        await self._pause(n_failed)

    async def _pause(self, retry: int) -> None:
        delay_s = self._group.backoff.delay_s(min(retry, 30))
        try:
            await asyncio.wait_for(self._stop.wait(), delay_s)
        except TimeoutError:
            return
        raise _Stopping

    async def _bury(self, record: StoredRecord, reason: str, message: str, n_attempts: int) -> None:
        group, n_away = self._group, 0
        while True:
            try:
                await group.letters.bury(group.name, record, reason, message, n_attempts)
                break
            except EventLogUnavailable as error:
                n_away += 1
                await self._wait_for_neighbour(error, n_away, record)
        group.metrics.dead.labels(group.name, self.partition.topic, reason).inc()
        log.error(
            "event_dead_lettered", reason=reason, message=message, attempts=n_attempts, **self._place(record)
        )
        self._done_with(record)

    def _done_with(self, record: StoredRecord) -> None:
        self.applied_before = record.offset + 1
        self._progress.set()

    def _place(self, record: StoredRecord) -> dict[str, object]:
        return {
            "group": self._group.name,
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
        }
