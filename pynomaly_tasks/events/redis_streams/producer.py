"""Appends events to Redis Streams."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence

from pynomaly_tasks.errors import EventLogUnavailable, EventRefused, PynomalyError
from pynomaly_tasks.events.kafka.partitioning import key_hash
from pynomaly_tasks.events.ports import Partition, Record
from pynomaly_tasks.events.redis_streams import keys
from pynomaly_tasks.events.redis_streams.connection import Argument, Connection, load
from pynomaly_tasks.events.redis_streams.entries import fields_of, size_bytes
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)

_APPEND = load("append")
_TRIM = load("trim")

#: Redis does nothing else while it appends a batch: some milliseconds for this much.
_BATCH_RECORDS = 2_000
_BATCH_BYTES = 4 << 20
_TRIM_EVERY_S = 30.0
_TRIMMED_AT_ONCE = 10_000


class RedisProducer:
    """Appends each batch at once, all or nothing; now and then it removes what every group has applied.

    A batch whose answer was lost may be in the log or not. Sent again it may be there twice, with
    equal ids, and the first of each in order.
    """

    def __init__(
        self,
        url: str,
        topics: Mapping[str, int],
        *,
        keep_s: float,
        max_record_bytes: int,
        keep_longer_s: Mapping[str, float] | None = None,
        timeout_s: float = 5.0,
        trim_every_s: float = _TRIM_EVERY_S,
    ) -> None:
        """``topics``: name to number of partitions. Records older than ``keep_s`` may be removed.

        ``keep_longer_s``: of topics that have a time of their own; inf: for ever.
        """
        self._topics = topics
        self._keep_s = keep_s
        self._keep_longer_s = dict(keep_longer_s or {})
        self._max_record_bytes = max_record_bytes
        self._timeout_s = timeout_s
        self._connection = Connection(url, timeout_s)
        self._trim_every_s = trim_every_s
        self._trim_at = time.monotonic()

    async def start(self) -> None:
        """See `Producer.start`."""
        await self._connection.execute("PING")

    async def send(self, records: Sequence[Record]) -> Sequence[PynomalyError | None]:
        """See `Producer.send`."""
        answers: list[PynomalyError | None] = [self._refusal(record) for record in records]
        accepted = [number for number, answer in enumerate(answers) if answer is None]
        end = time.monotonic() + self._timeout_s
        failed: EventLogUnavailable | None = None
        for batch in self._batches(records, accepted):
            if failed is None:
                failed = await self._append([records[number] for number in batch], end)
            for number in batch:
                answers[number] = failed
        await self._trim_when_due(end)
        return answers

    async def stop(self) -> None:
        """See `Producer.stop`."""
        await self._connection.aclose()

    def _refusal(self, record: Record) -> EventRefused | None:
        if record.topic not in self._topics:
            return EventRefused(f"there is no topic {record.topic!r}; there are {', '.join(self._topics)}")
        if (size := size_bytes(record)) > self._max_record_bytes:
            return EventRefused(f"the record has {size:,} bytes; the most is {self._max_record_bytes:,}")
        return None

    @staticmethod
    def _batches(records: Sequence[Record], numbers: Sequence[int]) -> Sequence[Sequence[int]]:
        batches: list[list[int]] = []
        n_bytes = 0
        for number in numbers:
            size = size_bytes(records[number])
            if not batches or len(batches[-1]) >= _BATCH_RECORDS or n_bytes + size > _BATCH_BYTES:
                batches.append([])
                n_bytes = 0
            batches[-1].append(number)
            n_bytes += size
        return batches

    async def _append(self, records: Sequence[Record], end: float) -> EventLogUnavailable | None:
        numbers: dict[str, int] = {}  # of each stream among the script's keys
        args: list[Argument] = []
        for record in records:
            stream = keys.stream(self._partition(record))
            fields = fields_of(record)
            args += [numbers.setdefault(stream, len(numbers) + 1), len(fields), *fields]
        try:
            await self._connection.run(_APPEND, [keys.COUNTS, *numbers], args, by=end)
        except EventLogUnavailable as error:
            return error
        return None

    def _partition(self, record: Record) -> Partition:
        n_partitions = self._topics[record.topic]
        if record.key is None:
            return Partition(record.topic, random.randrange(n_partitions))
        return Partition(record.topic, key_hash(record.key) % n_partitions)

    async def _trim_when_due(self, end: float) -> None:
        """Remove what may go; also when an append failed, as a full server takes it."""
        if time.monotonic() < self._trim_at:
            return
        self._trim_at = time.monotonic() + self._trim_every_s
        try:
            for topic, n_partitions in self._topics.items():
                keep_s = self._keep_longer_s.get(topic, self._keep_s)
                if math.isfinite(keep_s):
                    for number in range(n_partitions):
                        await self._trim(Partition(topic, number), keep_s, end)
        except EventLogUnavailable as error:
            log.warning("events_not_trimmed", reason=str(error))

    async def _trim(self, partition: Partition, keep_s: float, end: float) -> None:
        n_removed = await self._connection.run(
            _TRIM,
            [keys.stream(partition), keys.groups(partition.topic)],
            [keys.field(partition), int(keep_s * 1_000), _TRIMMED_AT_ONCE],
            by=end,
        )
        if n_removed:
            log.info("events_trimmed", partition=keys.field(partition), n_removed=n_removed)
