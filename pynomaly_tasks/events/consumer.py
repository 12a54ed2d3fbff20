"""One member of a group: reads its partitions, applies each event once, commits how far it is.

An offset is committed after the effect, so a member that dies leaves events to be read again, and
the effect tells them by their ids. Order holds within a partition; partitions go on beside each
other, and one whose neighbour is away holds up no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from pynomaly_tasks.core.event import Event
from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.errors import EventLogUnavailable, PartitionLost
from pynomaly_tasks.events.consumer_metrics import ConsumerMetrics
from pynomaly_tasks.events.dead_letters import LetterBox
from pynomaly_tasks.events.effect import Effect
from pynomaly_tasks.events.partition_work import GroupParts, PartitionWork
from pynomaly_tasks.events.ports import Consumer, Partition, Producer, StoredRecord
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)

_POLL_S = 0.5
#: While a partition is full, the poll must return soon after it no longer is.
_POLL_WHILE_FULL_S = 0.05
#: A commit each time anything was applied would cost more than the events themselves.
_COMMIT_EVERY_S = 0.1
_LAG_EVERY_S = 5.0
_LONGEST_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """How patient a consumer is."""

    max_attempts: int = 5  #: tries of an event that fails by itself
    backoff_s: float = 0.5
    backoff_max_s: float = 30.0
    stop_timeout_s: float = 10.0  #: for what is in hand when a partition goes, or the process ends
    poll_records: int = 500


class GroupConsumer:
    """Runs one member of a group until it is told to stop."""

    def __init__(
        self,
        group: str,
        consumer: Consumer,
        producer: Producer,
        effect: Effect,
        decode: Callable[[StoredRecord], Event],
        *,
        options: ConsumerOptions = ConsumerOptions(),
        metrics: ConsumerMetrics,
    ) -> None:
        """``producer`` takes the dead letters; it is started when there is one."""
        self._consumer = consumer
        self._options = options
        self._letters = LetterBox(producer)
        self._metrics = metrics
        self._group = GroupParts(
            name=group,
            effect=effect,
            decode=decode,
            letters=self._letters,
            metrics=metrics,
            max_attempts=options.max_attempts,
            backoff=RetryPolicy(backoff_s=options.backoff_s, backoff_max_s=options.backoff_max_s, jitter=0.1),
        )
        self._work: dict[Partition, PartitionWork] = {}
        self._progress = asyncio.Event()
        self._committed: dict[Partition, int] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop`` is set; then end what is in hand, commit it and leave, within the time for that.

        Waits for a log of events that is away. Raises what no retry can mend.
        """
        if not await self._join(stop):
            return
        log.info("group_joined", group=self._group.name)
        beside = [
            asyncio.create_task(self._commit_regularly(), name=f"commits of {self._group.name}"),
            asyncio.create_task(self._watch_lag(), name=f"lag of {self._group.name}"),
        ]
        try:
            await self._read(stop, beside)
        finally:
            await self._leave(beside)

    async def revoked(self, partitions: Collection[Partition]) -> None:
        """End what was begun of these and commit it: another member reads them next."""
        works = [work for one in partitions if (work := self._work.pop(one, None)) is not None]
        if not works:
            return
        await asyncio.gather(*(work.finish(self._options.stop_timeout_s) for work in works))
        await self._commit({work.partition: work.applied_before for work in works})
        for work in works:
            self._committed.pop(work.partition, None)

    async def _join(self, stop: asyncio.Event) -> bool:
        pause_s = 0.0
        while not stop.is_set():
            try:
                await self._consumer.start(self)
            except EventLogUnavailable as error:
                pause_s = self._note_outage(error, pause_s)
                await _wait(stop, pause_s)
            else:
                return True
        return False

    async def _read(self, stop: asyncio.Event, beside: Sequence[asyncio.Task[None]]) -> None:
        pause_s = 0.0
        while not stop.is_set():
            for work in self._work.values():
                work.check()
            for task in beside:
                if task.done():
                    task.result()
            limit = self._options.poll_records
            full = {one for one, work in self._work.items() if work.n_waiting >= limit}
            try:
                records = await self._consumer.poll(
                    limit, _POLL_WHILE_FULL_S if full else _POLL_S, paused=full
                )
            except EventLogUnavailable as error:
                pause_s = self._note_outage(error, pause_s)
                await _wait(stop, pause_s)
                continue
            if pause_s:
                log.info("event_log_found_again", group=self._group.name)
                pause_s = 0.0
            for partition, found in records.items():
                self._work_on(partition).offer(found)

    def _work_on(self, partition: Partition) -> PartitionWork:
        work = self._work.get(partition)
        if work is None:
            work = self._work[partition] = PartitionWork(partition, self._group, self._progress)
        return work

    def _note_outage(self, error: Exception, pause_s: float) -> float:
        if not pause_s:
            log.warning("event_log_away", group=self._group.name, reason=str(error))
        return min(max(0.1, pause_s * 2), _LONGEST_PAUSE_S)

    async def _commit_regularly(self) -> None:
        while True:
            await self._progress.wait()
            self._progress.clear()
            await self._commit({one: work.applied_before for one, work in self._work.items()})
            await asyncio.sleep(_COMMIT_EVERY_S)

    async def _commit(self, offsets: Mapping[Partition, int | None]) -> None:
        due = {
            one: offset
            for one, offset in offsets.items()
            if offset is not None and self._committed.get(one) != offset
        }
        if not due:
            return
        try:
            await self._consumer.commit(due)
        except PartitionLost:
            if len(due) == 1:
                [lost] = due
                log.info("partition_lost", group=self._group.name, partition=str(lost))
                await self._drop(lost)
                return
            for one, offset in due.items():
                await self._commit({one: offset})
        except EventLogUnavailable as error:
            log.warning("commit_failed", group=self._group.name, reason=str(error))
            self._progress.set()
        else:
            self._committed |= due

    async def _drop(self, partition: Partition) -> None:
        self._committed.pop(partition, None)
        if (work := self._work.pop(partition, None)) is not None:
            await work.finish(self._options.stop_timeout_s)

    async def _watch_lag(self) -> None:
        while True:
            try:
                self._metrics.set_lag(self._group.name, await self._consumer.lag())
            except EventLogUnavailable as error:
                log.debug("lag_unknown", group=self._group.name, reason=str(error))
            await asyncio.sleep(_LAG_EVERY_S)

    async def _leave(self, beside: Sequence[asyncio.Task[None]]) -> None:
        for task in beside:
            while not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=0.1)
        limit_s = self._options.stop_timeout_s
        await self.revoked(list(self._work))
        for ending in (self._consumer.stop(), self._letters.close()):
            try:
                await asyncio.wait_for(ending, limit_s)
            except (EventLogUnavailable, TimeoutError) as error:
                log.warning("group_left_badly", group=self._group.name, reason=repr(error))
        log.info("group_left", group=self._group.name)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
