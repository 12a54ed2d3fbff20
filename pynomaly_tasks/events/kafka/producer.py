"""Appending to Kafka's topics: idempotent, in order within a key, and never longer than the timeout."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidTimestampError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnsupportedForMessageFormatError,
)

from pynomaly_tasks.errors import EventLogUnavailable, EventRefused, PynomalyError
from pynomaly_tasks.events.kafka.connection import KafkaConnection
from pynomaly_tasks.events.kafka.metadata import NEW_TOPIC_WAIT_S
from pynomaly_tasks.events.kafka.partitioning import key_hash
from pynomaly_tasks.events.ports import Partition, Record
from pynomaly_tasks.kafka_client.producing import InvalidRecord, ProducerClient
from pynomaly_tasks.kafka_client.reasons import describe

#: Before compression. Kafka takes 1 MiB in one batch unless told otherwise.
MAX_BATCH_BYTES = 900_000
#: A topic that was missing is waited for again after this; until then it is only asked for.
_MISSING_TOPIC_S = 30.0
_RETRY_BACKOFF_MS = 100
#: Of the timeout: to find out why Kafka did not answer.
_SHARE_TO_EXPLAIN = 0.2

#: Of a batch they say that one of its records is wrong, or that it is too large as a whole.
_ABOUT_ONE_RECORD = (InvalidRecord, MessageSizeTooLargeError, RecordListTooLargeError)
_REFUSALS = (
    ClusterAuthorizationFailedError,
    InvalidTimestampError,
    InvalidTopicError,
    PolicyViolationError,
    TopicAuthorizationFailedError,
    UnsupportedForMessageFormatError,
)


@dataclass(slots=True)
class _Sending:
    """One call of `send`: its records, the answers so far, and what is still to be appended."""

    records: Sequence[Record]
    answers: dict[int, PynomalyError | None] = field(default_factory=dict)
    waiting: dict[Partition, deque[list[int]]] = field(default_factory=dict)


class KafkaProducer:
    """Appends to Kafka's topics (see `Producer` for what it promises).

    All records of one call that fall into one partition go as one batch, which Kafka takes as a whole
    or not at all; where they are too many for one, as several in a row, which end at the first that
    fails. After an error that leaves aiokafka's sequence numbers wrong, or a batch whose fate is
    unknown, the client is thrown away and the next call makes another.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        topics: Collection[str] = (),
        compression: str = "zstd",
        timeout_s: float = 10.0,
        max_batch_bytes: int = MAX_BATCH_BYTES,
    ) -> None:
        """``topics``: a Kafka that has none of them is not set up yet, and counts as away."""
        self._connection = connection
        self._topics = frozenset(topics)
        self._compression = None if compression == "none" else compression
        self._timeout_s = timeout_s
        self._max_batch_bytes = max_batch_bytes
        self._lock = asyncio.Lock()
        self._client: ProducerClient | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._missing_until_s: dict[str, float] = {}
        self._n_calls = 0

    async def start(self) -> None:
        """Connect. Raises EventLogUnavailable within the timeout, and InvalidSettings."""
        try:
            async with asyncio.timeout(self._timeout_s * (1 - _SHARE_TO_EXPLAIN)), self._lock:
                await self._connected()
        except (KafkaError, OSError) as error:
            self._discard()
            raise await self._connection.explain(error, self._timeout_s * _SHARE_TO_EXPLAIN) from error

    async def send(self, records: Sequence[Record]) -> Sequence[PynomalyError | None]:
        """Append, in the given order within a key; the answers in the order of the records."""
        sending = _Sending(records)
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout_s * (1 - _SHARE_TO_EXPLAIN)), self._lock:
                await self._send(sending)
        except (KafkaError, OSError) as error:
            took_s = time.monotonic() - started_s
            unknown = await self._connection.explain(error, self._timeout_s * _SHARE_TO_EXPLAIN)
            unknown.add_note(f"after {took_s:.1f} s; kafka.timeout_s is {self._timeout_s:g}")
            for index in range(len(records)):
                sending.answers.setdefault(index, unknown)
        return [sending.answers[index] for index in range(len(records))]

    async def stop(self) -> None:
        """Disconnect, within the timeout. What `send` was told to append, it has answered."""
        self._discard()
        if self._closing:
            await asyncio.wait(self._closing, timeout=self._timeout_s)

    async def _connected(self) -> ProducerClient:
        if self._client is None:
            self._client = ProducerClient(
                **self._connection.client_options(),
                acks="all",
                enable_idempotence=True,
                compression_type=self._compression,
                max_batch_size=self._max_batch_bytes,
                request_timeout_ms=max(int(self._timeout_s * 1000), 1),
                retry_backoff_ms=_RETRY_BACKOFF_MS,
            )
            await self._client.start()
        return self._client

    def _discard(self) -> None:
        """Throw the client away, without waiting for that."""
        client, self._client = self._client, None
        if client is not None:
            task = asyncio.create_task(client.abandon())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _send(self, sending: _Sending) -> None:
        try:
            await self._distribute(sending)
            while sending.waiting:
                client = await self._connected()
                async with asyncio.TaskGroup() as group:
                    appends = [
                        group.create_task(self._append(client, sending, partition))
                        for partition in sending.waiting
                    ]
                if any(append.result() for append in appends):
                    self._discard()
        except BaseException:
            # Also where the time is up: what was sent may be taken later, and its sequence numbers are spent.
            self._discard()
            raise

    async def _distribute(self, sending: _Sending) -> None:
        """Find each record's partition, and answer those that can have none."""
        self._n_calls += 1
        refused: dict[str, PynomalyError] = {}
        parts: dict[str, list[list[int]]] = {}  # by topic and partition
        for index, record in enumerate(sending.records):
            topic = record.topic
            numbered = parts.get(topic)
            if numbered is None and topic not in refused:
                found = await self._count_partitions(topic)
                if isinstance(found, PynomalyError):
                    refused[topic] = found
                else:
                    numbered = parts[topic] = [[] for _ in range(found)]
            problem = refused.get(topic) if numbered is None else _find_problem(record)
            if problem is not None or numbered is None:
                sending.answers[index] = problem
                continue
            hashed = self._n_calls if record.key is None else key_hash(record.key)
            numbered[hashed % len(numbered)].append(index)
        sending.waiting = {
            Partition(topic, number): deque([indexes])
            for topic, numbered in parts.items()
            for number, indexes in enumerate(numbered)
            if indexes
        }

    async def _count_partitions(self, topic: str) -> int | PynomalyError:
        """How many partitions a topic has, or why there is none to append to."""
        client = (await self._connected()).aiokafka.client
        if found := client.cluster.partitions_for_topic(topic):
            return len(found)
        client.add_topic(topic)
        now_s = time.monotonic()
        wait_s = 0.0 if self._missing_until_s.get(topic, 0.0) > now_s else NEW_TOPIC_WAIT_S
        while True:
            was_answered = await client.force_metadata_update()
            if found := client.cluster.partitions_for_topic(topic):
                self._missing_until_s.pop(topic, None)
                return len(found)
            if topic in client.cluster.unauthorized_topics:
                client._topics.discard(topic)
                return EventRefused(f"Kafka does not let this user write to the topic {topic}")
            if was_answered and time.monotonic() - now_s >= min(wait_s, self._timeout_s / 2):
                client._topics.discard(topic)
                if topic in self._topics and self._topics.isdisjoint(
                    (await client.fetch_all_metadata()).topics()
                ):
                    return EventLogUnavailable(
                        "Kafka has none of the platform's topics yet; create them: pynomaly kafka create-topics"
                    )
                self._missing_until_s[topic] = time.monotonic() + _MISSING_TOPIC_S
                return EventRefused(f"Kafka has no topic {topic}; create it: pynomaly kafka create-topics")
            await asyncio.sleep(_RETRY_BACKOFF_MS / 1000)

    async def _append(self, client: ProducerClient, sending: _Sending, partition: Partition) -> bool:
        """Append a partition's batches one after the other; whether the client is of no use afterwards.

        Leaves in ``sending.waiting`` what another client has to append.
        """
        batches = sending.waiting[partition]
        while batches:
            builder, n_taken = _build_batch(client.aiokafka, sending.records, batches[0])
            if n_taken < len(batches[0]):
                indexes = batches.popleft()
                batches.extendleft((indexes[n_taken:], indexes[:n_taken]))
            try:
                await (await client.aiokafka.send_batch(builder, partition.topic, partition=partition.number))
            except (KafkaError, AssertionError) as error:
                return self._settle_failure(sending, partition, error)
            sending.answers.update(dict.fromkeys(batches.popleft()))
        del sending.waiting[partition]
        return False

    def _settle_failure(self, sending: _Sending, partition: Partition, error: BaseException) -> bool:
        """Decide what becomes of a partition's batches after the first of them failed."""
        batches = sending.waiting[partition]
        answer: PynomalyError
        if isinstance(error, _ABOUT_ONE_RECORD):
            if len(batches[0]) > 1:
                indexes = batches.popleft()
                half = len(indexes) // 2
                batches.extendleft((indexes[half:], indexes[:half]))
                return True
            answer = EventRefused(f"Kafka refused a record of {partition.topic}: {describe(error)}")
            sending.answers[batches.popleft()[0]] = answer
            if not batches:
                del sending.waiting[partition]
            return True
        if isinstance(error, _REFUSALS):
            answer = EventRefused(f"Kafka refused what is for {partition.topic}: {describe(error)}")
        else:
            answer = EventLogUnavailable(
                f"Kafka did not take what is for {partition.topic}: {describe(error)}"
            )
        for indexes in sending.waiting.pop(partition):
            sending.answers.update(dict.fromkeys(indexes, answer))
        return True


def _build_batch(producer: Any, records: Sequence[Record], indexes: Sequence[int]) -> tuple[Any, int]:
    """A batch of the first of these records, and how many are in it."""
    builder = producer.create_batch()
    n_taken = 0
    for index in indexes:
        record = records[index]
        appended = builder.append(
            timestamp=None, key=record.key, value=record.value, headers=list(record.headers)
        )
        if appended is None:
            break
        n_taken += 1
    builder.close()
    return builder, n_taken


def _find_problem(record: Record) -> EventRefused | None:
    for name, _ in record.headers:
        if not name.isascii():
            try:
                name.encode()
            except UnicodeEncodeError:
                return EventRefused(f"the name of the header {name!r} cannot be written as UTF-8")
    return None
