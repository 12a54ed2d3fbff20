"""A log of events in memory that answers as the port says, and fails as it is told to."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence

from pynomaly_tasks.errors import EventLogUnavailable, EventRefused, PynomalyError
from pynomaly_tasks.events.ports import Record

Fault = Callable[[Record], bool]


def nothing(record: Record) -> bool:
    return False


class MemoryLog:
    """What every producer of a test appends to: partitions by key, all of a call's records of one, or none."""

    def __init__(self, n_partitions: int = 3) -> None:
        self.partitions: dict[tuple[str, int], list[Record]] = defaultdict(list)
        self._n_partitions = n_partitions
        self.is_away = False
        self.refuses: Fault = nothing
        self.raises: Fault = nothing  #: an error of the client that nobody foresaw
        self.is_dead: Callable[[int], bool] = lambda partition: False  #: a partition without a leader
        self.n_calls = 0
        self.n_unknown = 0  #: calls still to come that append and then say they do not know
        self.max_records = 0  #: of one call
        self.gate: asyncio.Event | None = None  #: closed: calls wait before they append

    def partition_of(self, record: Record) -> int:
        return sum(record.key or b"") % self._n_partitions

    def append(self, records: Sequence[Record]) -> list[PynomalyError | None]:
        self.n_calls += 1
        self.max_records = max(self.max_records, len(records))
        if self.is_away:
            return [EventLogUnavailable("the log is away") for _ in records]
        if any(map(self.raises, records)):
            raise RuntimeError("the client broke")
        answers: list[PynomalyError | None] = []
        unknown = self.n_unknown > 0
        self.n_unknown -= unknown
        for record in records:
            partition = self.partition_of(record)
            if self.refuses(record):
                answers.append(EventRefused("too large"))
            elif self.is_dead(partition):
                answers.append(EventLogUnavailable(f"partition {partition} has no leader"))
            else:
                self.partitions[record.topic, partition].append(record)
                answers.append(EventLogUnavailable("no answer in time") if unknown else None)
        return answers

    def ids(self, key: str) -> list[str]:
        """Ids of the key's events in the order of the log, repetitions and all."""
        return [
            dict(record.headers)["ce_id"].decode()
            for partition in self.partitions.values()
            for record in partition
            if record.key == key.encode()
        ]

    def firsts(self, key: str) -> list[str]:
        """The same without repetitions."""
        return list(dict.fromkeys(self.ids(key)))

    @property
    def n_records(self) -> int:
        return sum(map(len, self.partitions.values()))


class MemoryProducer:
    """One process's way to the log."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.n_started = 0
        self.is_running = False
        self.start_error: Exception | None = None

    async def start(self) -> None:
        if self.start_error is not None:
            raise self.start_error
        if self._log.is_away:
            raise EventLogUnavailable("the log is away")
        self.n_started += 1
        self.is_running = True

    async def send(self, records: Sequence[Record]) -> Sequence[PynomalyError | None]:
        assert self.is_running, "the producer was not started"
        await asyncio.sleep(0)
        if self._log.gate is not None:
            await self._log.gate.wait()
        return self._log.append(records)

    async def stop(self) -> None:
        self.is_running = False
