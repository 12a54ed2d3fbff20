"""Apache Kafka: one node, topics of one partition, acks=all from an idempotent producer.

The same behind TLS and the login of Azure Event Hubs, which FastStream has no broker for.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.helpers import create_ssl_context

from benchmarks.messaging_peers.systems import PAYLOAD, FastStream, System, nothing, ready_body
from pynomaly_tasks.messaging import Backend, build_backend


async def make_topic(address: Mapping[str, Any], name: str) -> None:
    admin = AIOKafkaAdminClient(**address)
    await admin.start()
    await admin.create_topics([NewTopic(name, 1, 1)])
    await admin.close()


class Bare:
    """aiokafka: a consumer group of one, its offset committed for each fetch; nobody settles one message alone."""

    def __init__(self, address: Mapping[str, Any]) -> None:
        self.seen: Callable[[], None] = nothing
        self._address = address  #: and login, as aiokafka's clients take them
        self._topic = f"bare-{uuid.uuid4().hex[:8]}"
        self._body = ready_body()

    async def open(self) -> None:
        await make_topic(self._address, self._topic)
        self._producer = AIOKafkaProducer(**self._address, acks="all", enable_idempotence=True)
        self._consumer = AIOKafkaConsumer(
            self._topic, **self._address, group_id=self._topic, enable_auto_commit=False,
            auto_offset_reset="earliest",
        )  # fmt: skip
        await self._producer.start()
        await self._consumer.start()

    async def close(self) -> None:
        await self._consumer.stop()
        await self._producer.stop()

    async def send(self, n_messages: int, at_once: int) -> None:
        for _ in range(n_messages // at_once):
            if at_once == 1:
                await self._producer.send_and_wait(self._topic, self._body)
            else:
                sent = [await self._producer.send(self._topic, self._body) for _ in range(at_once)]
                await asyncio.gather(*sent)

    async def consume(self, n_messages: int, at_once: int) -> None:
        while n_messages > 0:
            found = await self._consumer.getmany(timeout_ms=10_000, max_records=min(at_once, n_messages))
            for records in found.values():
                n_messages -= len(records)
                for _ in records:
                    self.seen()
            if found:
                await self._consumer.commit()


class FastStreamOnKafka(FastStream):
    """A consumer group of one; it handles one message after the other, and commits now and then, by the clock."""

    def __init__(self, servers: str) -> None:
        super().__init__()
        self._servers = servers

    def build(self) -> tuple[Any, Any]:
        from faststream.kafka import KafkaBroker

        broker = KafkaBroker(
            self._servers, acks="all", enable_idempotence=True, max_batch_size=131_072, logger=None
        )
        return broker, broker.subscriber(self.queue, group_id=self.queue, auto_offset_reset="earliest")

    async def open(self) -> None:
        await make_topic({"bootstrap_servers": self._servers}, self.queue)
        await super().open()

    async def send_one(self) -> None:
        await self.broker.publish(PAYLOAD, self.queue)

    async def send_together(self, n_messages: int) -> None:
        await self.broker.publish_batch(*([PAYLOAD] * n_messages), topic=self.queue)


class KafkaBench:
    """See `Broker`."""

    name = "kafka"
    distributions: Sequence[str] = ("aiokafka",)
    n_one_by_one = 30
    n_at_once = 300
    max_rounds = 100
    max_probes = 1_000

    def start(self, stack: ExitStack, directory: Path) -> None:
        from support.kafka import KafkaNode

        node = KafkaNode(directory / "kafka")
        stack.callback(node.close)
        self.servers = node.start().bootstrap

    def backend(self) -> Backend:
        return build_backend("kafka", f"kafka://{self.servers}", namespace=f"bench-{uuid.uuid4().hex[:8]}")

    def bare(self) -> System:
        return Bare({"bootstrap_servers": self.servers})

    def faststream(self) -> System | None:
        return FastStreamOnKafka(self.servers)


class EventHubsBench(KafkaBench):
    """See `Broker`."""

    name = "event_hubs"

    def start(self, stack: ExitStack, directory: Path) -> None:
        from support.event_hubs import EventHubsListener

        self._node = EventHubsListener(directory)
        stack.callback(self._node.close)
        self._node.start()

    def backend(self) -> Backend:
        namespace = f"bench-{uuid.uuid4().hex[:8]}"
        return build_backend("event_hubs", self._node.connection_string, namespace=namespace)

    def bare(self) -> System:
        connection_string, _, authority = self._node.connection_string.partition(";CaFile=")
        return Bare(
            {
                "bootstrap_servers": self._node.sasl_bootstrap,
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": "PLAIN",
                "sasl_plain_username": "$ConnectionString",
                "sasl_plain_password": connection_string,
                "ssl_context": create_ssl_context(cafile=authority),
            }
        )

    def faststream(self) -> System | None:
        return None
