"""What tests ask of a running Apache Kafka: topics to make, and what is in them.

Everything here may be called from sync code and, at the price of blocking its loop, from async code.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, for_code

from pynomaly_tasks.kafka_client.clients import build_admin, build_consumer
from support.waiting import wait_until

T = TypeVar("T")

_CALL_TIMEOUT_S = 30.0


def unique_name(stem: str = "test") -> str:
    """A name for a topic or a group that no other test has."""
    return f"{stem}-{uuid.uuid4().hex[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaRecord:
    """One record as a topic holds it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp_ms: int

    def header(self, name: str) -> bytes:
        """The only value of a header; raises where it has none or several."""
        (value,) = (value for each, value in self.headers if each == name)
        return value


def run_bounded(coroutine: Coroutine[Any, Any, T], timeout_s: float, what: str) -> T:
    """Run a coroutine on a loop of its own, also where this thread has one. Fails the test in the end."""
    with ThreadPoolExecutor(1) as thread:
        try:
            return thread.submit(asyncio.run, asyncio.wait_for(coroutine, timeout_s)).result()
        except TimeoutError:
            raise AssertionError(f"waited {timeout_s:g} s for {what}") from None


class KafkaTopics:
    """What a test asks of a running Kafka, be it one node or three."""

    n_replicas = 1

    @property
    def bootstrap(self) -> str:
        """Addresses for `bootstrap_servers`, separated by commas."""
        raise NotImplementedError

    def unique_name(self, stem: str = "test") -> str:
        """A name for a topic or a group that no other test has."""
        return unique_name(stem)

    def create_topic(
        self, name: str, n_partitions: int = 1, *, config: Mapping[str, object] | None = None
    ) -> str:
        """Create a topic with every replica that there can be. Returns its name."""
        text = {key: str(value) for key, value in (config or {}).items()}
        topic = NewTopic(name, n_partitions, self.n_replicas, topic_configs=text)
        self._admin(lambda admin: _create(admin, topic), f"topic {name} to be created")
        wait_until(lambda: name in self.topics(), _CALL_TIMEOUT_S, f"topic {name} to be known")
        self.wait_led(name)
        return name

    def new_topic(
        self, n_partitions: int = 1, *, stem: str = "test", config: Mapping[str, object] | None = None
    ) -> str:
        """Create a topic of a name that no other test has."""
        return self.create_topic(unique_name(stem), n_partitions, config=config)

    def delete_topic(self, name: str) -> None:
        """Delete a topic with what is in it."""
        self._admin(lambda admin: _delete(admin, name), f"topic {name} to be deleted")

    def topics(self) -> dict[str, dict[str, Any]]:
        """Each topic's metadata by name, as aiokafka's `describe_topics` gives it."""
        found = self._admin(lambda admin: admin.describe_topics(), "a list of topics")
        return {topic["topic"]: topic for topic in found}

    def wait_led(self, name: str, timeout_s: float = _CALL_TIMEOUT_S) -> None:
        """Wait until each partition of a topic has a leader that still runs."""
        wait_until(lambda: self._is_led(name), timeout_s, f"leaders of {name}")

    def _is_led(self, name: str) -> bool:
        partitions = self.topics()[name]["partitions"]
        return all(one["leader"] in self.running_ids() for one in partitions)

    def running_ids(self) -> set[int]:
        """Ids of the nodes whose process runs."""
        raise NotImplementedError

    def read_topic(
        self, name: str, *, isolation_level: str = "read_committed", timeout_s: float = _CALL_TIMEOUT_S
    ) -> list[KafkaRecord]:
        """Everything in a topic now, partition by partition, in order of offset."""
        partitions = [TopicPartition(name, one["partition"]) for one in self.topics()[name]["partitions"]]
        return run_bounded(
            _read(self.bootstrap, sorted(partitions), isolation_level), timeout_s, f"the end of {name}"
        )

    def _admin(
        self,
        use: Callable[[AIOKafkaAdminClient], Coroutine[Any, Any, T]],
        what: str,
        timeout_s: float = _CALL_TIMEOUT_S,
    ) -> T:
        async def call() -> T:
            while True:
                try:
                    async with admin_client(self.bootstrap, request_timeout_ms=5_000) as admin:
                        return await use(admin)
                except KafkaError as error:
                    # A client asks any node that the others still count in, also one that is gone.
                    if not error.retriable:
                        raise
                await asyncio.sleep(0.1)

        return run_bounded(call(), timeout_s, what)


@asynccontextmanager
async def admin_client(bootstrap: str, **options: Any) -> Any:
    """An admin client, started and closed."""
    admin = build_admin(bootstrap_servers=bootstrap, **options)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def _create(admin: AIOKafkaAdminClient, topic: NewTopic) -> None:
    answer = await admin.create_topics([topic])
    for _, code, message in answer.topic_errors:
        if code:
            raise for_code(code)(message)


async def _delete(admin: AIOKafkaAdminClient, name: str) -> None:
    answer = await admin.delete_topics([name])
    for _, code in answer.topic_error_codes:
        if code:
            raise for_code(code)(name)


async def _read(bootstrap: str, partitions: list[TopicPartition], isolation_level: str) -> list[KafkaRecord]:
    consumer = build_consumer(
        bootstrap_servers=bootstrap, isolation_level=isolation_level, enable_auto_commit=False,
        auto_offset_reset="none", fetch_max_wait_ms=100, request_timeout_ms=10_000,
    )  # fmt: skip
    records = []
    try:
        await consumer.start()
        consumer.assign(partitions)
        for partition, offset in (await consumer.beginning_offsets(partitions)).items():
            consumer.seek(partition, offset)
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(one) < ends[one] for one in partitions]):
            for batch in (await consumer.getmany(timeout_ms=100)).values():
                records += [_record(one) for one in batch]
    finally:
        await consumer.stop()
    return sorted(records, key=lambda one: (one.partition, one.offset))


def _record(record: Any) -> KafkaRecord:
    return KafkaRecord(
        topic=record.topic, partition=record.partition, offset=record.offset, key=record.key,
        value=record.value, headers=tuple(record.headers), timestamp_ms=record.timestamp,
    )  # fmt: skip
