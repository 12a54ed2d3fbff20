"""From the bytes that Kafka answers a fetch with to records, whoever wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy


def unpack_records(
    partition: TopicPartition, raw: bytes, aborted: Any, offset: int
) -> tuple[Sequence[Any], int]:
    """The committed records from the offset on, and the offset to go on from."""
    try:
        return _unpack(partition, MemoryRecords(raw), aborted, offset)
    except UnicodeDecodeError:
        return _unpack(partition, _AnyRecords(raw), aborted, offset)


def _unpack(partition: TopicPartition, batches: Any, aborted: Any, offset: int) -> tuple[list[Any], int]:
    found = PartitionRecords(partition, batches, aborted, offset, None, None, True, READ_COMMITTED)
    records = list(found)
    return records, int(found.next_fetch_offset)


class _AnyText(bytearray):
    """Bytes that can be decoded, whatever they are."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return _AnyText(found) if isinstance(found, bytearray) else found

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return super().decode(encoding, "backslashreplace")


class _AnyBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # aiokafka has no types
    """A batch whose headers may have any names: aiokafka's own ends at one that is not UTF-8."""

    def __iter__(self) -> Any:
        super().__iter__()
        self._buffer: bytearray = _AnyText(self._buffer)
        return self


class _AnyRecords(_MemoryRecordsPy):  # type: ignore[misc]  # aiokafka has no types
    def next_batch(self) -> Any:
        found = self._next_slice
        self._cache_next()
        return _AnyBatch(found)
