"""A log of events in memory, whose members, outages and rebalances a test moves by hand."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from pynomaly_tasks.errors import EventLogUnavailable, EventRefused, PartitionLost, PynomalyError
from pynomaly_tasks.events.ports import Assignment, Partition, Record, StoredRecord


class ManualLog:
    """Topics of one log; each topic has two partitions, and the first byte of a key says which."""

    def __init__(self) -> None:
        self.records: dict[Partition, list[StoredRecord]] = defaultdict(list)
        self.committed: dict[tuple[str, Partition], int] = {}
        self.owners: dict[tuple[str, Partition], ManualConsumer] = {}
        self.away = False
        self.max_bytes = 1_000_000
        self.n_commits = 0

    def append(self, record: Record) -> StoredRecord:
        number = record.key[0] % 2 if record.key else 0
        place = Partition(record.topic, number)
        stored = StoredRecord(
            topic=record.topic,
            key=record.key,
            value=record.value,
            headers=record.headers,
            partition=number,
            offset=len(self.records[place]),
            at=datetime.now(UTC),
        )
        self.records[place].append(stored)
        return stored

    def check(self) -> None:
        if self.away:
            raise EventLogUnavailable("the log was put away by the test")

    def of(self, topic: str) -> list[StoredRecord]:
        return [
            one for place, records in sorted(self.records.items()) for one in records if place.topic == topic
        ]

    def lag(self, group: str) -> int:
        return sum(
            len(records) - self.committed.get((group, place), 0) for place, records in self.records.items()
        )


class ManualProducer:
    """Appends; a value larger than the log takes is refused."""

    def __init__(self, log: ManualLog) -> None:
        self._log = log
        self.n_started = 0
        self.n_stopped = 0

    async def start(self) -> None:
        self._log.check()
        self.n_started += 1

    async def send(self, records: Sequence[Record]) -> Sequence[PynomalyError | None]:
        assert self.n_started > self.n_stopped, "sent before it was started"
        return [self._send(record) for record in records]

    def _send(self, record: Record) -> PynomalyError | None:
        if self._log.away:
            return EventLogUnavailable("the log was put away by the test")
        if len(record.value or b"") > self._log.max_bytes:
            return EventRefused(f"{len(record.value or b'')} bytes")
        self._log.append(record)
        return None

    async def stop(self) -> None:
        self.n_stopped += 1


class ManualConsumer:
    """One member of a group, given partitions by the test."""

    def __init__(self, log: ManualLog, group: str, partitions: Iterable[Partition] = ()) -> None:
        self._log = log
        self._group = group
        self._assignment: Assignment | None = None
        self._positions: dict[Partition, int] = {}
        self._to_get = tuple(partitions)
        self.paused: list[Collection[Partition]] = []
        self.joined = asyncio.Event()
        self.stopped = asyncio.Event()
        self._hurries = False

    async def start(self, assignment: Assignment) -> None:
        self._log.check()
        self._assignment = assignment
        for partition in self._to_get:
            self.give(partition)
        self.joined.set()

    def give(self, partition: Partition) -> None:
        self._log.owners[(self._group, partition)] = self
        self._positions[partition] = self._log.committed.get((self._group, partition), 0)

    async def take_away(self, partition: Partition) -> None:
        """As a rebalance does: the member is told, and may commit, before another one reads."""
        assert self._assignment is not None
        self._positions.pop(partition)
        await self._assignment.revoked([partition])
        del self._log.owners[(self._group, partition)]

    def lose(self, partition: Partition) -> None:
        """As after a pause that was too long: another member reads already, this one was not told."""
        self._positions.pop(partition)
        del self._log.owners[(self._group, partition)]

    def hurry(self) -> None:
        """Wait no longer for records: the test is over."""
        self._hurries = True

    async def poll(
        self, max_records: int, timeout_s: float, *, paused: Collection[Partition] = ()
    ) -> Mapping[Partition, Sequence[StoredRecord]]:
        self._log.check()
        self.paused.append(paused)
        end = asyncio.get_running_loop().time() + timeout_s
        while not (found := self._next(max_records, paused)):
            if self._hurries or asyncio.get_running_loop().time() >= end:
                return {}
            await asyncio.sleep(0.002)
            self._log.check()
        return found

    def _next(self, max_records: int, paused: Collection[Partition]) -> dict[Partition, list[StoredRecord]]:
        found = {}
        for partition, position in self._positions.items():
            records = self._log.records[partition][position : position + max_records]
            if records and partition not in paused:
                found[partition] = records
                self._positions[partition] = records[-1].offset + 1
        return found

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        self._log.check()
        for partition in offsets:
            if self._log.owners.get((self._group, partition)) is not self:
                raise PartitionLost(f"{partition} is read by another member")
        self._log.n_commits += 1
        for partition, offset in offsets.items():
            self._log.committed[(self._group, partition)] = offset

    async def lag(self) -> Mapping[Partition, int]:
        self._log.check()
        return {
            place: len(self._log.records[place]) - self._log.committed.get((self._group, place), 0)
            for place in self._positions
        }

    async def stop(self) -> None:
        self.stopped.set()


class ManualReader:
    """Reads beside every group."""

    def __init__(self, log: ManualLog) -> None:
        self._log = log

    async def read(
        self, topic: str, *, since: datetime | int | None, until: datetime | None, max_records: int
    ) -> Sequence[StoredRecord]:
        self._log.check()
        found = [
            one
            for one in self._log.of(topic)
            if (since is None or (one.offset >= since if isinstance(since, int) else one.at >= since))
            and (until is None or one.at < until)
        ]
        return found[:max_records]

    async def lag(self, group: str, topics: Collection[str]) -> Mapping[Partition, int]:
        self._log.check()
        return {
            place: len(records) - self._log.committed.get((group, place), 0)
            for place, records in self._log.records.items()
            if place.topic in topics
        }
