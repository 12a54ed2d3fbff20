"""Reading a piece of a partition, whatever is in it.

aiokafka's own records cannot be read past one whose header has a name that is not UTF-8: the batch
raises, and those of its records that were read before are lost with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import NoError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A piece of a partition."""

    records: Sequence[ConsumerRecord]
    next_offset: int  #: to go on from; past what was taken back or is the end of a transaction, too
    end: int  #: the offset after the newest record


def build_fetch(
    partition: TopicPartition, offset: int, *, max_bytes: int, wait_s: float = 0.0
) -> FetchRequest:
    """Ask for committed records from an offset on, at least one where there is one.

    wait_s: how long Kafka waits for the first.
    """
    wanted = [(partition.topic, [(partition.partition, offset, max_bytes)])]
    return FetchRequest(int(wait_s * 1000), 1, max_bytes, READ_COMMITTED, wanted)


def unpack_fetched(partition: TopicPartition, offset: int, response: Any) -> Fetched:
    """What Kafka answers to `build_fetch`. Raises KafkaError."""
    ((_, ((_, code, end, *rest),)),) = response.topics
    error = for_code(code)
    if error is not NoError:
        raise error(f"{partition.topic}-{partition.partition}")
    aborted = rest[2] if response.API_VERSION >= 11 else rest[-2]
    raw = rest[-1]
    try:
        return _unpack(partition, offset, MemoryRecords(raw), aborted, end)
    except UnicodeDecodeError:
        return _unpack(partition, offset, _AnyRecords(raw), aborted, end)


def _unpack(partition: TopicPartition, offset: int, batches: Any, aborted: Any, end: int) -> Fetched:
    found = PartitionRecords(partition, batches, aborted, offset, None, None, True, READ_COMMITTED)
    records = list(found)
    return Fetched(records=records, next_offset=int(found.next_fetch_offset), end=end)


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
