"""aiokafka's clients, each call with an end: what is asked of Kafka, and its errors as ours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.client import ConnectionGroup
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    LeaderNotAvailableError,
    MessageSizeTooLargeError,
    NodeNotReadyError,
    NoError,
    OffsetOutOfRangeError,
    RecordListTooLargeError,
    RequestTimedOutError,
    StaleMetadata,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.offset import OffsetRequest

from pynomaly_tasks.errors import BrokerUnavailable, InvalidMessage, MessagingClosed
from pynomaly_tasks.kafka_client.clients import build_admin
from pynomaly_tasks.kafka_client.fetching import Fetched, build_fetch, unpack_fetched
from pynomaly_tasks.kafka_client.producing import ProducerClient
from pynomaly_tasks.kafka_client.reasons import Places, describe, find_reasons
from pynomaly_tasks.messaging.backends.kafka.address import KafkaAddress

#: Of one item with its head: a payload of the default limit, encrypted and in base64, is smaller.
MAX_ITEM_BYTES = 4 * 1_048_576
_MAX_RECORD_BYTES = MAX_ITEM_BYTES + 65_536
_BATCH_BYTES = 524_288
_BACKOFF_MS = 50
_CLOSE_TIMEOUT_S = 1.0
_LATEST, _EARLIEST = -1, -2
#: Of the connect timeout: to find out why nobody answers.
_SHARE_TO_EXPLAIN = 0.3
#: A connection that broke is made again for so long before it is told.
_RECONNECT_S = 1.0


_PLACES = Places(
    servers="messaging.url",
    protocol="scheme and login in messaging.url",
    login="user and password in messaging.url",
    mechanism="mechanism in messaging.url",
    ca_file="ca_file in messaging.url",
)


class TopicGone(KafkaError):  # type: ignore[misc]  # aiokafka has no types
    """Kafka has no such topic."""


class KafkaWire:
    """One process's connections. Every topic here has one partition."""

    def __init__(
        self,
        address: KafkaAddress,
        *,
        connect_timeout_s: float,
        timeout_s: float,
        topic_config: Mapping[str, str],
        replication: int | None,
    ) -> None:
        """``replication``: copies of each topic; None: three, or as many as there are brokers."""
        self.address = address
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._topic_config = dict(topic_config)
        self._replication = replication
        self._admin: AIOKafkaAdminClient | None = None
        self._producer: ProducerClient | None = None
        self._producing = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Connect. Raises BrokerUnavailable within the connect timeout."""
        admin = build_admin(
            **self.address.options(),
            request_timeout_ms=int(self._timeout_s * 1000),
            metadata_max_age_ms=30_000,
            retry_backoff_ms=_BACKOFF_MS,
        )
        started = time.monotonic()
        try:
            async with self._mapped_errors(self._connect_timeout_s * (1 - _SHARE_TO_EXPLAIN)):
                await admin.start()
        except BrokerUnavailable as error:
            await admin._client.close()
            left_s = self._connect_timeout_s - (time.monotonic() - started)
            why = await find_reasons(self.address.options(), _PLACES, left_s)
            why = why or f"{self.address.servers} answers, but not in time"
            raise BrokerUnavailable(f"Kafka gave no answer: {why}") from error
        except BaseException:
            await admin._client.close()
            raise
        self._admin = admin

    async def close(self) -> None:
        """Close everything, within about a second."""
        admin, self._admin = self._admin, None
        self.discard_producer()
        if admin is not None:
            await admin._client.close()
        if self._closing:
            await asyncio.wait(self._closing, timeout=2 * _CLOSE_TIMEOUT_S)

    @property
    def _client(self) -> Any:
        if self._admin is None:
            raise MessagingClosed("the Kafka backend is not open; use it in `async with`, or call open()")
        return self._admin._client

    async def make_topic(self, topic: str) -> None:
        """Make it unless it is there, and wait until it can be used."""
        client = self._client
        admin = self._admin
        assert admin is not None
        async with self._mapped_errors():
            n_brokers = len(client.cluster.brokers())
            new = NewTopic(topic, 1, self._replication or min(3, n_brokers), topic_configs=self._topic_config)
            while True:
                await self._find_controller()
                answer = await admin.create_topics([new], timeout_ms=int(self._timeout_s * 1000))
                ((_, code, message, *_),) = answer.topic_errors
                error = for_code(code)
                if not error.retriable:
                    break
                await asyncio.sleep(_BACKOFF_MS / 1000)
            if error not in (NoError, TopicAlreadyExistsError):
                raise BrokerUnavailable(f"Kafka did not make the topic {topic}: {message or error.__name__}")
            client.add_topic(topic)
            while client.cluster.leader_for_partition(TopicPartition(topic, 0)) in (None, -1):
                await client.force_metadata_update()
                await asyncio.sleep(0.005)
            while not await self._serves(topic):
                await asyncio.sleep(0.005)

    async def _find_controller(self) -> None:
        """aiokafka takes for granted that there is one, and while a node restarts there is none."""
        while self._client.cluster.controller is None:
            await self._client.force_metadata_update()
            await asyncio.sleep(_BACKOFF_MS / 1000)

    async def _serves(self, topic: str) -> bool:
        try:
            await self.end_offset(topic)
        except TopicGone:  # its leader has not heard of it yet
            return False
        return True

    async def delete_topic(self, topic: str) -> None:
        """Delete it; that there is none is fine."""
        _ = self._client
        admin = self._admin
        assert admin is not None
        async with self._mapped_errors():
            await self._find_controller()
            answer = await admin.delete_topics([topic], timeout_ms=int(self._timeout_s * 1000))
        for _, code, *_ in answer.topic_error_codes:
            error = for_code(code)
            if error not in (NoError, UnknownTopicOrPartitionError):
                raise BrokerUnavailable(f"Kafka did not delete the topic {topic}: {error.__name__}")

    def forget_topic(self, topic: str) -> None:
        """Ask for it no more: where Kafka makes topics by itself, asking would make it again."""
        clients = [self._admin._client] if self._admin is not None else []
        clients += [self._producer.aiokafka.client] if self._producer is not None else []
        for client in clients:
            client._topics.discard(topic)

    async def delete_before(self, topic: str, offset: int) -> None:
        """Remove the records before an offset."""
        _ = self._client
        assert self._admin is not None
        async with self._mapped_errors():
            await self._admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(offset)})

    async def send(self, records: Sequence[tuple[str, bytes]]) -> list[int]:
        """Append to topics, in order within each; their offsets. All replicas in sync have them then."""
        _ = self._client
        try:
            async with self._mapped_errors():
                producer = await self._connected_producer()
                futures = []
                for topic, value in records:
                    futures.append(await producer.aiokafka.send(topic, value, partition=0))
                    futures[-1].add_done_callback(_look_at)
                await asyncio.wait(futures)
                return [future.result().offset for future in futures]
        except asyncio.CancelledError:
            raise  # it may be written or not; those beside it go on
        except (MessageSizeTooLargeError, RecordListTooLargeError) as error:
            self.discard_producer()
            largest = max(len(value) for _, value in records)
            raise InvalidMessage.of(
                "payload", f"makes {largest:,} bytes, which is more than the broker takes in one message"
            ) from error
        except BaseException:
            # What was sent may be taken later, and aiokafka's sequence numbers are spent.
            self.discard_producer()
            raise

    async def _connected_producer(self) -> ProducerClient:
        async with self._producing:
            if self._producer is None:
                producer = ProducerClient(
                    **self.address.options(),
                    acks="all",
                    enable_idempotence=True,
                    max_batch_size=_BATCH_BYTES,
                    max_request_size=_MAX_RECORD_BYTES,
                    request_timeout_ms=int(self._timeout_s * 1000),
                    retry_backoff_ms=_BACKOFF_MS,
                    metadata_max_age_ms=30_000,
                )
                try:
                    await producer.start()
                except BaseException:
                    await producer.abandon()
                    raise
                self._producer = producer
            return self._producer

    def discard_producer(self) -> None:
        """The next `send` makes another one."""
        producer, self._producer = self._producer, None
        if producer is not None:
            task = asyncio.create_task(producer.abandon())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def fetch(
        self,
        topic: str,
        offset: int,
        *,
        max_bytes: int,
        wait_s: float = 0.0,
        group: Hashable = ConnectionGroup.DEFAULT,
    ) -> Fetched:
        """Records from an offset on, at least one where there is one. ``wait_s``: for the first.

        A call that waits needs a ``group``, a connection of its own: Kafka answers one after the other.
        Raises OffsetOutOfRangeError, TopicGone and BrokerUnavailable.
        """
        partition = TopicPartition(topic, 0)
        request = build_fetch(partition, offset, max_bytes=max_bytes, wait_s=wait_s)
        async with self._mapped_errors(self._timeout_s + wait_s):
            response, _ = await self._ask_leader(partition, request, group)
        return unpack_fetched(partition, offset, response)

    async def end_offset(self, topic: str) -> int:
        """The offset after the newest record."""
        return await self._offset(topic, _LATEST)

    async def begin_offset(self, topic: str) -> int:
        """The offset of the oldest record that is kept."""
        return await self._offset(topic, _EARLIEST)

    async def offset_at(self, topic: str, timestamp_ms: int) -> int | None:
        """Of the first record that Kafka took then or later; None where there is none."""
        offset = await self._offset(topic, timestamp_ms)
        return None if offset < 0 else offset

    async def _offset(self, topic: str, timestamp_ms: int) -> int:
        request = OffsetRequest(-1, READ_COMMITTED, [(topic, [(0, timestamp_ms)])])
        async with self._mapped_errors():
            _, (_, offset) = await self._ask_leader(TopicPartition(topic, 0), request)
        return int(offset)

    async def _ask_leader(
        self, partition: TopicPartition, request: Any, group: Hashable = ConnectionGroup.DEFAULT
    ) -> tuple[Any, list[Any]]:
        """The answer, and what it says of the partition. Asks again until somebody leads it."""
        cut_off_until = time.monotonic() + min(_RECONNECT_S, self._timeout_s)
        while True:
            try:
                leader = await self._leader(partition)
                response = await self._client.send(leader, request, group=group)
                ((_, ((_, code, *rest),)),) = response.topics
                if code:
                    raise for_code(code)(partition.topic)
            except UnknownTopicOrPartitionError as error:
                raise TopicGone(partition.topic) from error
            except (KafkaConnectionError, NodeNotReadyError, StaleMetadata):
                if time.monotonic() > cut_off_until:
                    raise
            except KafkaError as error:
                if not error.retriable or isinstance(error, RequestTimedOutError):
                    raise
                if error.invalid_metadata:
                    self._client.force_metadata_update()
            else:
                return response, rest
            await asyncio.sleep(_BACKOFF_MS / 1000)

    async def _leader(self, partition: TopicPartition) -> Any:
        client = self._client
        leader = client.cluster.leader_for_partition(partition)
        if leader is None or leader == -1:
            client.add_topic(partition.topic)
            was_answered = await client.force_metadata_update()
            leader = client.cluster.leader_for_partition(partition)
            if leader is None and was_answered:
                raise TopicGone(partition.topic)
        if leader is None or leader == -1:
            raise LeaderNotAvailableError(f"nobody leads {partition.topic}")
        return leader

    @asynccontextmanager
    async def _mapped_errors(self, timeout_s: float | None = None) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s if timeout_s is None else timeout_s):
                yield
        except (OffsetOutOfRangeError, TopicGone, MessageSizeTooLargeError, RecordListTooLargeError):
            raise
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(
                f"Kafka at {self.address.servers} gave no answer: {describe(error)}"
            ) from error


def _look_at(future: asyncio.Future[Any]) -> None:
    """An error that nobody waits for any more is no news."""
    if not future.cancelled():
        future.exception()
