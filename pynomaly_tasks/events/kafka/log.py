"""The whole log on Apache Kafka: its producer, consumers and reader."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pynomaly_tasks.errors import EventLogUnavailable, NotFound
from pynomaly_tasks.events.kafka.connection import KafkaConnection
from pynomaly_tasks.events.kafka.consumer import KafkaConsumer
from pynomaly_tasks.events.kafka.producer import KafkaProducer
from pynomaly_tasks.events.kafka.reader import KafkaReader

#: Asked for its offsets it has none, and asking makes none.
_NO_GROUP = "pynomaly-config-check"


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaEventLog:
    """See `EventLog`; connects to nothing by itself."""

    connection: KafkaConnection
    topics: Collection[str]  #: that are expected to exist
    compression: str = "zstd"
    timeout_s: float = 10.0

    def producer(self) -> KafkaProducer:
        """A producer, not started."""
        return KafkaProducer(
            self.connection, topics=self.topics, compression=self.compression, timeout_s=self.timeout_s
        )

    def consumer(self, group: str, topics: Collection[str]) -> KafkaConsumer:
        """A member of a group, not started."""
        return KafkaConsumer(self.connection, group=group, topics=topics, timeout_s=self.timeout_s)

    def reader(self) -> KafkaReader:
        """A reader beside the groups."""
        return KafkaReader(self.connection, timeout_s=self.timeout_s)

    async def check(self) -> None:
        """See `EventLog.check`."""
        try:
            await self.reader().lag(_NO_GROUP, self.topics)
        except NotFound as error:
            raise EventLogUnavailable(f"{error}; create it: pynomaly kafka create-topics") from error
