"""From the log's topics to the log's records."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, LeaderNotAvailableError

from pynomaly_tasks.events.ports import StoredRecord
from pynomaly_tasks.kafka_client.fetching import Fetched, build_fetch, unpack_fetched

_LATEST_MS = 253_402_300_799_000  # the year 9999: a record's time is whatever its producer wrote


async def fetch(client: Any, partition: TopicPartition, offset: int, max_bytes: int) -> Fetched:
    """Committed records from an offset on, at least one where there is one. Raises KafkaError."""
    leader = client.cluster.leader_for_partition(partition)
    if leader is None or leader == -1:
        client.force_metadata_update()
        raise LeaderNotAvailableError(f"nobody leads {partition.topic}-{partition.partition}")
    response = await client.send(leader, build_fetch(partition, offset, max_bytes=max_bytes))
    try:
        return unpack_fetched(partition, offset, response)
    except KafkaError as error:
        if error.invalid_metadata:
            client.force_metadata_update()
        raise


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
