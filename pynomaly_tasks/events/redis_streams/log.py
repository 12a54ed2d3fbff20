"""The whole log on Redis Streams: its producer, consumers and reader."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from pynomaly_tasks.errors import NotFound
from pynomaly_tasks.events.redis_streams.connection import Connection
from pynomaly_tasks.events.redis_streams.consumer import RedisConsumer
from pynomaly_tasks.events.redis_streams.groups import forget_group, groups_of
from pynomaly_tasks.events.redis_streams.producer import RedisProducer
from pynomaly_tasks.events.redis_streams.reader import RedisReader


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisEventLog:
    """See `EventLog`; connects to nothing by itself."""

    url: str  #: of the streams' database
    topics: Mapping[str, int]  #: name to number of partitions
    keep_s: float  #: records that every group has applied are kept this long
    max_record_bytes: int
    keep_longer_s: Mapping[str, float] = field(default_factory=dict)  #: of topics with a time of their own
    timeout_s: float = 5.0

    def producer(self) -> RedisProducer:
        """A producer, not started."""
        return RedisProducer(
            self.url,
            self.topics,
            keep_s=self.keep_s,
            max_record_bytes=self.max_record_bytes,
            keep_longer_s=self.keep_longer_s,
            timeout_s=self.timeout_s,
        )

    def consumer(self, group: str, topics: Collection[str]) -> RedisConsumer:
        """A member of a group, not started. Raises NotFound for an unknown topic."""
        if unknown := sorted(set(topics) - self.topics.keys()):
            raise NotFound(f"there is no topic {unknown[0]!r}; there are {', '.join(self.topics)}")
        wanted = {topic: self.topics[topic] for topic in sorted(topics)}
        return RedisConsumer(self.url, group, wanted, timeout_s=self.timeout_s)

    def reader(self) -> RedisReader:
        """A reader beside the groups."""
        return RedisReader(self.url, self.topics, timeout_s=self.timeout_s)

    async def check(self) -> None:
        """See `EventLog.check`."""
        async with aclosing(Connection(self.url, self.timeout_s)) as redis:
            await redis.execute("PING")

    async def groups(self) -> Mapping[str, list[str]]:
        """Every group that keeps records from being removed, with its topics. Raises EventLogUnavailable."""
        return await groups_of(self.url, self.topics, timeout_s=self.timeout_s)

    async def forget_group(self, group: str) -> None:
        """Drop a group that is gone for good, so that records are no longer kept for it.

        Raises Conflict while one of its members lives, NotFound where there is none of that name.
        """
        await forget_group(self.url, self.topics, group, timeout_s=self.timeout_s)
