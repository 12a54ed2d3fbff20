"""Reading a piece of a partition, whatever is in it.

aiokafka's own records cannot be read past one whose header has a name that is not UTF-8: the batch
raises, and those of its records that were read before are lost with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import LeaderNotAvailableError, NoError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

from pynomaly_tasks.events.ports import StoredRecord

_LATEST_MS = 253_402_300_799_000  # the year 9999: a record's time is whatever its producer wrote


class _AnyText(bytearray):
    """Bytes that can be decoded, whatever they are: ``\\xff`` stays visible."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return _AnyText(found) if isinstance(found, bytearray) else found

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return super().decode(encoding, "backslashreplace")


class _AnyBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # aiokafka has no types
    """A batch whose headers may have any names."""

    def __iter__(self) -> Any:
        super().__iter__()
        self._buffer: bytearray = _AnyText(self._buffer)
        return self


class _AnyRecords(_MemoryRecordsPy):  # type: ignore[misc]  # aiokafka has no types
    """The batches of a fetch."""

    def next_batch(self) -> Any:
        found = self._next_slice
        self._cache_next()
        return _AnyBatch(found)


async def fetch(
    client: Any, partition: TopicPartition, offset: int, max_bytes: int
) -> tuple[list[ConsumerRecord], int]:
    """Committed records from an offset on, at least one where there is one; and the next offset to read.

    Raises KafkaError.
    """
    leader = client.cluster.leader_for_partition(partition)
    if leader is None or leader == -1:
        client.force_metadata_update()
        raise LeaderNotAvailableError(f"nobody leads {partition.topic}-{partition.partition}")
    wanted = [(partition.topic, [(partition.partition, offset, max_bytes)])]
    response = await client.send(leader, FetchRequest(0, 1, max_bytes, READ_COMMITTED, wanted))
    ((_, ((_, code, _, *rest),)),) = response.topics
    error = for_code(code)
    if error is not NoError:
        if error.invalid_metadata:
            client.force_metadata_update()
        raise error(f"{partition.topic}-{partition.partition}")
    aborted = rest[2] if response.API_VERSION >= 11 else rest[-2]
    found = PartitionRecords(
        partition, _AnyRecords(rest[-1]), aborted, offset, None, None, True, READ_COMMITTED
    )
    records = list(found)
    return records, found.next_fetch_offset


def as_stored(records: Iterable[ConsumerRecord]) -> list[StoredRecord]:
    """Records of aiokafka as records of the log."""
    return [
        StoredRecord(
            topic=record.topic,
            key=record.key,
            value=record.value,
            headers=tuple((name, b"" if value is None else value) for name, value in record.headers),
            partition=record.partition,
            offset=record.offset,
            at=datetime.fromtimestamp(min(max(record.timestamp, 0), _LATEST_MS) / 1000, UTC),
        )
        for record in records
    ]
