"""Reads events from Redis Streams beside every group."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

from pynomaly_tasks.errors import NotFound
from pynomaly_tasks.events.ports import Partition, StoredRecord
from pynomaly_tasks.events.redis_streams import keys
from pynomaly_tasks.events.redis_streams.connection import Connection
from pynomaly_tasks.events.redis_streams.entries import stored_record
from pynomaly_tasks.events.redis_streams.membership import lag_of

_EPOCH = datetime.fromtimestamp(0, UTC)


class RedisReader:
    """Looks without being a member of any group; each call makes its own connection."""

    def __init__(self, url: str, topics: Mapping[str, int], *, timeout_s: float = 5.0) -> None:
        """``topics``: name to number of partitions."""
        self._url = url
        self._topics = topics
        self._timeout_s = timeout_s

    async def read(
        self, topic: str, *, since: datetime | int | None, until: datetime | None, max_records: int
    ) -> Sequence[StoredRecord]:
        """See `Reader.read`. The earliest ones of all partitions; ``until`` itself is past the end.

        Records of different partitions may share an offset: read on from the time of the last one, and
        leave out those that were seen. Raises NotFound for an unknown topic.
        """
        first = (
            "-" if since is None else keys.entry_id_of(since if isinstance(since, int) else _offset_at(since))
        )
        last = "+" if until is None else keys.entry_id_of(max(0, _offset_at(until) - 1))
        found: list[StoredRecord] = []
        async with aclosing(Connection(self._url, self._timeout_s)) as redis:
            for partition in self._partitions([topic]):
                entries: Sequence[tuple[bytes, Any]] = await redis.execute(
                    "XRANGE", keys.stream(partition), first, last, "COUNT", max_records
                )
                found += [stored_record(partition, entry_id, fields) for entry_id, fields in entries]
        found.sort(key=lambda record: (record.offset, record.partition))
        return found[:max_records]

    async def lag(self, group: str, topics: Collection[str]) -> Mapping[Partition, int]:
        """See `Reader.lag`. Raises NotFound for an unknown topic."""
        async with aclosing(Connection(self._url, self._timeout_s)) as redis:
            return await lag_of(redis, group, self._partitions(topics))

    def _partitions(self, topics: Collection[str]) -> list[Partition]:
        if unknown := sorted(set(topics) - self._topics.keys()):
            raise NotFound(f"there is no topic {unknown[0]!r}; there are {', '.join(self._topics)}")
        return [Partition(topic, number) for topic in topics for number in range(self._topics[topic])]


def _offset_at(at: datetime) -> int:
    """The first offset that a record of this millisecond can have."""
    return keys.offset_of(str(max(0, (at - _EPOCH) // timedelta(milliseconds=1))))
