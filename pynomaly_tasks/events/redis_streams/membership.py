"""One member of a group: which partitions it may read, and for how long that is sure."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pynomaly_tasks.core.ids import new_id
from pynomaly_tasks.events.ports import Partition
from pynomaly_tasks.events.redis_streams import keys
from pynomaly_tasks.events.redis_streams.connection import Connection, load

_SHARE = load("share")
_RELEASE = load("release")
_COMMIT = load("commit")
_LAG = load("lag")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a member holds now."""

    offsets: Mapping[Partition, int]  #: of each partition that it may read: the first not yet applied
    too_many: frozenset[Partition]  #: of these, what it shall give up for others


class Membership:
    """Speaks for one member with the group's leases, all of which go by the server's clock."""

    def __init__(
        self, connection: Connection, group: str, topics: Mapping[str, int], *, lease_s: float
    ) -> None:
        self.member = new_id()
        self.group = group
        self._connection = connection
        self._topics = topics
        self._lease_s = lease_s
        self._sure_until = 0.0

    def is_sure(self) -> bool:
        """Whether nobody else can read this member's partitions yet, by this process' clock."""
        return time.monotonic() < self._sure_until

    async def share(self) -> Share:
        """Join, or stay: renew the leases, take what is free up to a fair share. Raises EventLogUnavailable."""
        asked_at = time.monotonic()
        holds, too_many = await self._connection.run(
            _SHARE,
            [
                keys.members(self.group),
                keys.leases(self.group),
                keys.offsets(self.group),
                keys.changes(self.group),
                *map(keys.groups, self._topics),
            ],
            [
                self.member,
                self.group,
                int(self._lease_s * 1_000),
                ",".join(f"{topic}={n}" for topic, n in self._topics.items()),
            ],
        )
        self._sure_until = asked_at + self._lease_s
        pairs = zip(holds[::2], holds[1::2], strict=True)
        return Share(
            offsets={
                keys.partition_of_field(name.decode()): keys.offset_of(applied) if applied else 0
                for name, applied in pairs
            },
            too_many=frozenset(keys.partition_of_field(name.decode()) for name in too_many),
        )

    async def release(self, partitions: Collection[Partition]) -> None:
        """Give up some partitions. Raises EventLogUnavailable."""
        await self._release("0", [keys.field(partition) for partition in partitions])

    async def leave(self) -> None:
        """Give up everything at once. Raises EventLogUnavailable."""
        await self._release("1", [])

    async def _release(self, leaves: str, fields: Sequence[str]) -> None:
        group_keys = [keys.members(self.group), keys.leases(self.group), keys.changes(self.group)]
        await self._connection.run(_RELEASE, group_keys, [self.member, leaves, *fields])

    async def commit(self, offsets: Mapping[Partition, int]) -> frozenset[Partition]:
        """Write the offsets down; answers which of the partitions another member holds now."""
        words = [
            word
            for partition, offset in offsets.items()
            for word in (keys.field(partition), keys.entry_id_of(offset))
        ]
        lost = await self._connection.run(
            _COMMIT, [keys.leases(self.group), keys.offsets(self.group)], [self.member, *words]
        )
        return frozenset(keys.partition_of_field(name.decode()) for name in lost)


async def lag_of(
    connection: Connection, group: str, partitions: Sequence[Partition]
) -> Mapping[Partition, int]:
    """Records of each partition that a group has still to apply. Raises EventLogUnavailable."""
    lags = await connection.run(
        _LAG,
        [keys.COUNTS, keys.offsets(group), *map(keys.stream, partitions)],
        [keys.field(partition) for partition in partitions],
    )
    return dict(zip(partitions, lags, strict=True))
