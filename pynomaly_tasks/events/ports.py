"""What relay and consumers need of a log of events: Kafka's model, which Redis Streams are given too.

A topic has partitions; a key always falls into the same one, and order holds there. A group reads
each partition in one process at a time and commits how far it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from pynomaly_tasks.errors import PynomalyError

Headers = Sequence[tuple[str, bytes]]


class Partition(NamedTuple):
    """One ordered part of a topic."""

    topic: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A message of a topic, as it is appended."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecord(Record):
    """A message of a topic, as it is read."""

    partition: int
    offset: int  #: rises within the partition; not always by one
    at: datetime  #: when the log took it, UTC


class Producer(Protocol):
    """Appends to topics."""

    async def start(self) -> None:
        """Connect. Raises EventLogUnavailable within the producer's timeout."""

    async def send(self, records: Sequence[Record]) -> Sequence[PynomalyError | None]:
        """Append, in the given order within a key; the answers in the order of the records.

        None: the log has it. EventRefused: it never will, as it is. EventLogUnavailable: it may or
        may not have it; then no later record of its key in this call was appended without it.
        Returns within the producer's timeout, whatever the log does.
        """

    async def stop(self) -> None:
        """Disconnect, within the producer's timeout."""


class Assignment(Protocol):
    """What a consumer is told when its partitions change."""

    async def revoked(self, partitions: Collection[Partition]) -> None:
        """Finish what was begun of these and commit it: another process reads them next."""


class Consumer(Protocol):
    """Reads topics as one member of a group."""

    async def start(self, assignment: Assignment) -> None:
        """Join the group. Raises EventLogUnavailable."""

    async def poll(
        self, max_records: int, timeout_s: float, *, paused: Collection[Partition] = ()
    ) -> Mapping[Partition, Sequence[StoredRecord]]:
        """The next records of this member's partitions, each partition's in order.

        Of ``paused`` partitions none are handed out: what was read of them before is still being
        applied. Empty when nothing came within the time, which is waited for also when all are
        paused. Raises EventLogUnavailable.
        """

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        """The group has applied everything before these offsets.

        Raises PartitionLost when another member reads one of them now, and EventLogUnavailable.
        """

    async def lag(self) -> Mapping[Partition, int]:
        """Records of this member's partitions that the group has still to apply."""

    async def stop(self) -> None:
        """Leave the group, so that another member takes over at once."""


class Reader(Protocol):
    """Reads topics beside every group: for replays and for looking."""

    async def read(
        self, topic: str, *, since: datetime | int | None, until: datetime | None, max_records: int
    ) -> Sequence[StoredRecord]:
        """Records from an offset or a time on, of every partition, until now at the latest."""

    async def lag(self, group: str, topics: Collection[str]) -> Mapping[Partition, int]:
        """Records of each partition that a group has still to apply; all of them where it never committed."""
