"""A log of events as a whole, so that one setting chooses it: Redis Streams or Apache Kafka."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from pynomaly_tasks.events.ports import Consumer, Producer, Reader


class EventLog(Protocol):
    """Makes what reads and writes one log; connects to nothing by itself."""

    def producer(self) -> Producer:
        """A producer, not started."""

    def consumer(self, group: str, topics: Collection[str]) -> Consumer:
        """A member of a group, not started. Raises NotFound for an unknown topic."""

    def reader(self) -> Reader:
        """A reader beside the groups."""

    async def check(self) -> None:
        """Raises EventLogUnavailable unless the log answers and has its topics."""
