"""Making topics in Kafka, and telling how they differ from what they are to be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    NoError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from pynomaly_tasks.errors import EventRefused
from pynomaly_tasks.events.kafka.connection import KafkaConnection
from pynomaly_tasks.events.topics import Topic
from pynomaly_tasks.kafka_client.clients import build_admin
from pynomaly_tasks.kafka_client.reasons import describe

_SHARE_TO_EXPLAIN = 0.2
_REFUSALS = (ClusterAuthorizationFailedError, TopicAuthorizationFailedError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing about a topic that is not as it is to be."""

    topic: str
    what: str  #: ``partitions``, ``replication_factor`` or a name of Kafka's configuration
    wanted: str
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What Kafka has, beside what it is to have."""

    missing: Sequence[Topic]
    differences: Sequence[Difference]


class KafkaAdmin:
    """Looks at topics and makes them. Each call connects anew, and ends within the timeout."""

    def __init__(self, connection: KafkaConnection, *, timeout_s: float = 10.0) -> None:
        self._connection = connection
        self._timeout_s = timeout_s

    async def compare(self, topics: Collection[Topic]) -> Comparison:
        """What is missing and what differs. Changes nothing. Raises EventLogUnavailable and EventRefused."""
        async with self._connected() as admin:
            # All that there are: asking for one by name would create it where Kafka is set so.
            partitions = {found["topic"]: found["partitions"] for found in await admin.describe_topics()}
            present = [topic for topic in topics if topic.name in partitions]
            configs = await _configs(admin, present)
        differences = []
        for topic in present:
            found = partitions[topic.name]
            numbers = (
                ("partitions", topic.n_partitions, len(found)),
                ("replication_factor", topic.replication_factor, max(len(one["replicas"]) for one in found)),
            )
            values = [
                *((what, str(wanted), str(is_now)) for what, wanted, is_now in numbers),
                *(
                    (key, wanted, configs[topic.name].get(key, "unknown"))
                    for key, wanted in topic.config.items()
                ),
            ]
            differences += [
                Difference(topic=topic.name, what=what, wanted=wanted, found=is_now)
                for what, wanted, is_now in values
                if wanted != is_now
            ]
        missing = [topic for topic in topics if topic.name not in partitions]
        return Comparison(missing=missing, differences=differences)

    async def create(self, topics: Collection[Topic]) -> list[str]:
        """Create topics; their names, without those that somebody else created meanwhile.

        Raises EventRefused naming the topic and Kafka's reason; those before it were created.
        """
        created = []
        async with self._connected() as admin:
            for topic in topics:
                answer = await admin.create_topics([_new_topic(topic)])
                ((_, code, message),) = answer.topic_errors
                error = for_code(code)
                if error is TopicAlreadyExistsError:
                    continue
                if error is not NoError:
                    raise EventRefused(f"Kafka did not create {topic.name}: {message or error.__name__}")
                created.append(topic.name)
        return created

    async def add_partitions(self, topic: str, n_partitions: int) -> None:
        """Give a topic more partitions: keys move to other ones, and their order is lost once.

        Raises EventRefused.
        """
        async with self._connected() as admin:
            try:
                await admin.create_partitions({topic: NewPartitions(n_partitions)})
            except KafkaError as error:
                if error.retriable:
                    raise
                raise EventRefused(f"Kafka did not add partitions to {topic}: {describe(error)}") from error

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = build_admin(
            **self._connection.client_options(), request_timeout_ms=max(int(self._timeout_s * 1000), 1)
        )
        try:
            async with asyncio.timeout(self._timeout_s * (1 - _SHARE_TO_EXPLAIN)):
                await admin.start()
                yield admin
        except _REFUSALS as error:
            raise EventRefused(
                f"Kafka does not let this user look at topics or make them: {describe(error)}"
            ) from error
        except (KafkaError, OSError) as error:
            raise await self._connection.explain(error, self._timeout_s * _SHARE_TO_EXPLAIN) from error
        finally:
            admin._closed = True
            await admin._client.close()


def _new_topic(topic: Topic) -> NewTopic:
    return NewTopic(
        topic.name, topic.n_partitions, topic.replication_factor, topic_configs=dict(topic.config)
    )


async def _configs(admin: AIOKafkaAdminClient, topics: Collection[Topic]) -> Mapping[str, Mapping[str, str]]:
    """How each topic is configured, in Kafka's words."""
    wanted = [
        ConfigResource(ConfigResourceType.TOPIC, topic.name, dict.fromkeys(topic.config, ""))
        for topic in topics
        if topic.config
    ]
    found: dict[str, Mapping[str, str]] = {topic.name: {} for topic in topics}
    if not wanted:
        return found
    for answer in await admin.describe_configs(wanted):
        for code, message, _, name, entries in answer.resources:
            if code:
                raise for_code(code)(message)
            found[name] = {entry[0]: entry[1] for entry in entries}
    return found
