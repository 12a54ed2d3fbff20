"""Reading Kafka's topics as one member of a group."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence

from aiokafka.errors import KafkaError

from pynomaly_tasks.errors import EventLogUnavailable, PartitionLost
from pynomaly_tasks.events.kafka.connection import KafkaConnection
from pynomaly_tasks.events.kafka.fetching import as_stored
from pynomaly_tasks.events.kafka.membership import Membership, close
from pynomaly_tasks.events.kafka.metadata import wait_for_topics
from pynomaly_tasks.events.ports import Assignment, Partition, StoredRecord
from pynomaly_tasks.kafka_client.clients import build_consumer

#: Heartbeats are also how a member learns that another one came.
_HEARTBEATS_PER_SESSION = 10
_MAX_HEARTBEAT_S = 1.0
#: A consumer that hears nothing asks this often whether Kafka is there at all.
_LIVENESS_S = 5.0
#: Of the timeout: to find out why Kafka did not answer.
_SHARE_TO_EXPLAIN = 0.2
_CLOSE_TIMEOUT_S = 1.0
_RETRY_BACKOFF_MS = 250


class KafkaConsumer:
    """Reads topics as one member of a group (see `Consumer` for what it promises).

    A member that polls for `max_poll_s` no more, or does not answer for the session's timeout, is taken
    for dead, and the others read its partitions. With each change of the group all its members give
    their partitions back and continue at what is committed.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        group: str,
        topics: Collection[str],
        timeout_s: float = 10.0,
        session_timeout_s: float = 10.0,
        rebalance_timeout_s: float = 30.0,
        max_poll_s: float = 300.0,
    ) -> None:
        """Connects to nothing yet.

        timeout_s: for each question to Kafka. rebalance_timeout_s: how long the group waits for a
        member to finish what it began; `Assignment.revoked` has four fifths of it.
        """
        self._connection = connection
        self._group = group
        self._topics = sorted(topics)
        self._timeout_s = timeout_s
        self._session_timeout_s = session_timeout_s
        self._rebalance_timeout_s = rebalance_timeout_s
        self._max_poll_s = max_poll_s
        self._assignment: Assignment | None = None
        self._membership: Membership | None = None
        self._heard_at_s = 0.0

    async def start(self, assignment: Assignment) -> None:
        """Join the group. Raises EventLogUnavailable, also where a topic does not exist."""
        self._assignment = assignment
        await self._join()

    async def poll(
        self, max_records: int, timeout_s: float, *, paused: Collection[Partition] = ()
    ) -> Mapping[Partition, Sequence[StoredRecord]]:
        """The next records of this member's partitions, each partition's in order."""
        membership = self._membership or await self._join()
        try:
            found = await membership.poll(max_records, timeout_s, paused)
            if not found:
                await self._check_liveness(membership)
        except (KafkaError, OSError) as error:
            await self._rejoin_later(membership)
            raise await self._explain(error) from error
        if found:
            self._heard_at_s = time.monotonic()
        return {Partition(*partition): as_stored(records) for partition, records in found.items()}

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        """The group has applied everything before these offsets."""
        if not offsets:
            return
        if self._membership is None:
            raise PartitionLost(f"this process is no member of the group {self._group} now")
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._membership.commit(offsets)
        except (KafkaError, OSError) as error:
            raise await self._explain(error) from error

    async def lag(self) -> Mapping[Partition, int]:
        """Records of this member's partitions that the group has still to apply."""
        membership = self._membership or await self._join()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await membership.lag()
        except (KafkaError, OSError) as error:
            raise await self._explain(error) from error

    async def stop(self) -> None:
        """Leave the group; what is not committed, another member reads again. Asks nobody to finish."""
        membership, self._membership = self._membership, None
        if membership is not None:
            await membership.leave(self._timeout_s)

    async def _join(self) -> Membership:
        if self._assignment is None:
            raise RuntimeError("the consumer was not started")
        consumer = build_consumer(
            **self._connection.client_options(),
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=int(self._session_timeout_s * 1000),
            heartbeat_interval_ms=int(
                min(self._session_timeout_s / _HEARTBEATS_PER_SESSION, _MAX_HEARTBEAT_S) * 1000
            ),
            rebalance_timeout_ms=int(self._rebalance_timeout_s * 1000),
            max_poll_interval_ms=int(self._max_poll_s * 1000),
            # Answers to a member that joins take as long as the slowest member needs to finish.
            request_timeout_ms=int(max(self._timeout_s, self._rebalance_timeout_s + 5.0) * 1000),
            metadata_max_age_ms=30_000,
            retry_backoff_ms=_RETRY_BACKOFF_MS,
        )
        membership = Membership(
            consumer, self._assignment.revoked, revoke_timeout_s=self._rebalance_timeout_s * 0.8
        )
        try:
            async with asyncio.timeout(self._timeout_s * (1 - _SHARE_TO_EXPLAIN)):
                await consumer.start()
                missing = await wait_for_topics(consumer._client, self._topics, self._timeout_s / 4)
        except (KafkaError, OSError) as error:
            await close(consumer, _CLOSE_TIMEOUT_S)
            raise await self._explain(error) from error
        except BaseException:
            await close(consumer, _CLOSE_TIMEOUT_S)
            raise
        if missing:
            await close(consumer, _CLOSE_TIMEOUT_S)
            raise EventLogUnavailable(
                f"Kafka has no topic {', '.join(missing)}; create it: pynomaly kafka create-topics"
            )
        consumer.subscribe(self._topics, listener=membership)
        self._membership, self._heard_at_s = membership, time.monotonic()
        return membership

    async def _rejoin_later(self, membership: Membership) -> None:
        """Leave after an error that aiokafka does not recover from; the next poll joins again."""
        self._membership = None
        await membership.on_partitions_revoked(membership.consumer.assignment())
        await membership.leave(self._timeout_s / 2)

    async def _check_liveness(self, membership: Membership) -> None:
        """Tell "nothing came" from "Kafka is away", which aiokafka's polls do not."""
        if time.monotonic() - self._heard_at_s < _LIVENESS_S:
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                was_answered = await membership.consumer._client.force_metadata_update()
        except TimeoutError as error:
            # Kafka hangs, or aiokafka's own task that asks it does: it would never be started again.
            await self._rejoin_later(membership)
            raise await self._explain(error) from error
        if not was_answered:
            raise await self._explain(ConnectionError("no broker answers"))
        self._heard_at_s = time.monotonic()

    async def _explain(self, error: BaseException) -> EventLogUnavailable:
        return await self._connection.explain(error, self._timeout_s * _SHARE_TO_EXPLAIN)
