"""Reading Kafka's topics beside every group."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from pynomaly_tasks.errors import NotFound
from pynomaly_tasks.events.kafka.connection import KafkaConnection
from pynomaly_tasks.events.kafka.fetching import as_stored, fetch
from pynomaly_tasks.events.kafka.membership import close, count_lag
from pynomaly_tasks.events.kafka.metadata import wait_for_topics
from pynomaly_tasks.events.ports import Partition, StoredRecord
from pynomaly_tasks.kafka_client.clients import build_consumer

_FETCH_BYTES = 1_048_576
_SHARE_TO_EXPLAIN = 0.2
_CLOSE_TIMEOUT_S = 1.0


class KafkaReader:
    """Reads topics beside every group (see `Reader`). Each call connects anew.

    timeout_s: for each question to Kafka, not for a whole call.
    """

    def __init__(self, connection: KafkaConnection, *, timeout_s: float = 10.0) -> None:
        self._connection = connection
        self._timeout_s = timeout_s

    async def read(
        self, topic: str, *, since: datetime | int | None, until: datetime | None, max_records: int
    ) -> Sequence[StoredRecord]:
        """Records from an offset or a time on, of every partition, until now at the latest.

        The earliest ``max_records`` of them by the time when Kafka took them; each partition's in order.
        Raises NotFound where there is no such topic, and EventLogUnavailable.
        """
        async with self._connected([topic]) as consumer:
            partitions = _partitions_of(consumer, [topic])
            async with asyncio.timeout(self._timeout_s):
                starts, ends = await _bounds(consumer, partitions, since, until)
            parts = [
                as_stored(await self._read(consumer, one, starts[one], ends[one], max_records))
                for one in partitions
            ]
        merged = heapq.merge(*parts, key=lambda record: record.at)
        return [record for record, _ in zip(merged, range(max_records), strict=False)]

    async def lag(self, group: str, topics: Collection[str]) -> Mapping[Partition, int]:
        """Records of each partition that a group has still to apply; all of them where it never committed.

        Raises NotFound where there is no such topic, and EventLogUnavailable.
        """
        async with self._connected(topics, group) as consumer, asyncio.timeout(self._timeout_s):
            return await count_lag(consumer, consumer._coordinator, _partitions_of(consumer, topics))

    @asynccontextmanager
    async def _connected(
        self, topics: Collection[str], group: str | None = None
    ) -> AsyncIterator[AIOKafkaConsumer]:
        """A consumer that is a member of nothing, and knows these topics."""
        consumer = build_consumer(
            **self._connection.client_options(),
            group_id=group,
            enable_auto_commit=False,
            isolation_level="read_committed",
            request_timeout_ms=max(int(self._timeout_s * 1000), 1),
        )
        try:
            async with asyncio.timeout(self._timeout_s * (1 - _SHARE_TO_EXPLAIN)):
                await consumer.start()
                missing = await wait_for_topics(consumer._client, topics, self._timeout_s / 4)
            if missing:
                raise NotFound(f"Kafka has no topic {', '.join(missing)}")
            yield consumer
        except (KafkaError, OSError) as error:
            raise await self._connection.explain(error, self._timeout_s * _SHARE_TO_EXPLAIN) from error
        finally:
            await close(consumer, _CLOSE_TIMEOUT_S)

    async def _read(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, start: int, end: int, max_records: int
    ) -> list[ConsumerRecord]:
        found: list[ConsumerRecord] = []
        offset = start
        while offset < end and len(found) < max_records:
            async with asyncio.timeout(self._timeout_s):
                fetched = await fetch(consumer._client, partition, offset, _FETCH_BYTES)
            found += [record for record in fetched.records if record.offset < end]
            if fetched.next_offset == offset:
                break  # what is left belongs to a transaction that is still open
            offset = fetched.next_offset
        return found[:max_records]


def _partitions_of(consumer: AIOKafkaConsumer, topics: Collection[str]) -> list[TopicPartition]:
    return sorted(
        TopicPartition(topic, number) for topic in topics for number in consumer.partitions_for_topic(topic)
    )


async def _bounds(
    consumer: AIOKafkaConsumer,
    partitions: Sequence[TopicPartition],
    since: datetime | int | None,
    until: datetime | None,
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """First offset and the one after the last, of each partition."""
    begins = await consumer.beginning_offsets(partitions)
    ends = await consumer.end_offsets(partitions)
    starts = begins
    if isinstance(since, datetime):
        found = await consumer.offsets_for_times(dict.fromkeys(partitions, int(since.timestamp() * 1000)))
        starts = {one: found[one].offset if found[one] else ends[one] for one in partitions}
    elif since is not None:
        starts = {one: max(begins[one], since) for one in partitions}
    if until is not None:
        found = await consumer.offsets_for_times(dict.fromkeys(partitions, int(until.timestamp() * 1000)))
        ends = {one: min(ends[one], found[one].offset) if found[one] else ends[one] for one in partitions}
    return starts, ends
