"""One stay in a consumer group: from joining it to leaving it, or to being thrown out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import (
    CorruptRecordException,
    IllegalGenerationError,
    IllegalStateError,
    KafkaError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from aiokafka.structs import OffsetAndMetadata

from pynomaly_tasks.errors import PartitionLost, PynomalyError
from pynomaly_tasks.events.kafka.fetching import fetch
from pynomaly_tasks.events.ports import Partition
from pynomaly_tasks.kafka_client.reasons import describe
from pynomaly_tasks.telemetry import get_logger

_log = get_logger(__name__)

_PAUSE_S = 0.05
#: While nothing comes: whether the group has given out its partitions anew.
_LOOK_AGAIN_S = 0.2
_RETRY_S = 0.1
#: One record is read even where it is larger.
_LENIENT_FETCH_BYTES = 262_144

_NO_MEMBER = (IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)


class Membership(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """One aiokafka consumer, and what it was given to read.

    aiokafka knows the eager protocol alone: with each change of the group every member gives back all
    partitions, and continues at what was committed.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        revoked: Callable[[Collection[Partition]], Awaitable[None]],
        *,
        revoke_timeout_s: float,
    ) -> None:
        self.consumer = consumer
        self._revoked = revoked
        self._revoke_timeout_s = revoke_timeout_s
        self._generation = -1  #: of the group, when its partitions were given out
        self._next: dict[TopicPartition, int] = {}  #: the offset after what was handed out
        self._handed_out: set[Partition] = set()

    @property
    def _coordinator(self) -> Any:
        return self.consumer._coordinator

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Called by aiokafka before it joins again; the group waits."""
        try:
            if revoked:
                async with asyncio.timeout(self._revoke_timeout_s):
                    await self._revoked({Partition(*partition) for partition in revoked})
        except (TimeoutError, PynomalyError) as error:
            _log.warning("partitions_given_back_unfinished", reason=describe(error))
        finally:
            self._generation = -1
            self._next.clear()
            self._handed_out.clear()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Called by aiokafka when the group has given out its partitions."""
        self._generation = self._coordinator.generation

    def assigned(self) -> set[TopicPartition]:
        """What this member reads now; empty while the group gives out its partitions anew."""
        if self._generation < 0 or self.consumer._subscription.reassignment_in_progress:
            return set()
        return set(self.consumer.assignment())

    async def poll(
        self, max_records: int, timeout_s: float, paused: Collection[Partition]
    ) -> Mapping[TopicPartition, Sequence[Any]]:
        """The next records. Raises KafkaError. May be cancelled: what was not returned comes again."""
        end_s = time.monotonic() + timeout_s
        while True:
            self._note_poll()
            self._coordinator.check_errors()
            if (fetching := self.consumer._fetcher._fetch_task).done():
                fetching.result()  # it raises what ended it, which aiokafka would keep for itself
                raise KafkaError("reading ended")
            wanted = [partition for partition in self.assigned() if Partition(*partition) not in paused]
            if wanted and (found := await self._read(wanted, max_records, end_s)):
                self._next |= {partition: records[-1].offset + 1 for partition, records in found.items()}
                self._handed_out |= {Partition(*partition) for partition in found}
                return found
            if (remaining_s := end_s - time.monotonic()) <= 0:
                return {}
            await self._wait_for_news(min(remaining_s, _LOOK_AGAIN_S if wanted else _PAUSE_S))

    async def _read(
        self, wanted: Sequence[TopicPartition], max_records: int, end_s: float
    ) -> Mapping[TopicPartition, Sequence[Any]]:
        """What aiokafka has fetched by now."""
        generation = self._generation
        try:
            async with asyncio.timeout(max(end_s - time.monotonic(), _PAUSE_S)):
                for partition in wanted:
                    if partition not in self._next:
                        self._next[partition] = await self.consumer.position(partition)
            if generation != self._generation or not self.assigned():
                return {}
            # Without a timeout it does not wait, and so is not interrupted: neither by a rebalance,
            # over which it would go on with the next assignment's records, nor by being cancelled.
            found: Mapping[TopicPartition, Sequence[Any]] = await self.consumer.getmany(
                *wanted, timeout_ms=0, max_records=max_records
            )
        except (CorruptRecordException, UnicodeDecodeError):
            return await self._read_any(wanted, max_records)
        except (TimeoutError, IllegalStateError):
            return {}
        finally:
            self._note_poll()
        return found

    async def _wait_for_news(self, timeout_s: float) -> None:
        waiter = self.consumer._fetcher._create_fetch_waiter()
        try:
            await asyncio.wait([waiter], timeout=timeout_s)
            if waiter.done():
                waiter.result()  # an error of the group ends the wait, too
        finally:
            waiter.cancel()

    def _note_poll(self) -> None:
        # aiokafka leaves the group when nothing was asked for in a while. It takes a poll of paused
        # partitions for none, and a `getmany` that raised for one that still runs.
        subscription = self.consumer._subscription
        subscription._fetch_count = 0
        subscription._last_fetch_ended = time.monotonic()

    async def _read_any(
        self, wanted: Sequence[TopicPartition], max_records: int
    ) -> Mapping[TopicPartition, Sequence[Any]]:
        """Read past what aiokafka cannot: everything that was not handed out, once more."""
        generation = self._generation
        starts = {partition: self._next[partition] for partition in wanted}
        for partition, offset in starts.items():
            self.consumer.seek(partition, offset)
        found: dict[TopicPartition, Sequence[Any]] = {}
        for partition, offset in starts.items():
            fetched = await fetch(self.consumer._client, partition, offset, _LENIENT_FETCH_BYTES)
            if kept := fetched.records[: max_records - sum(len(each) for each in found.values())]:
                found[partition] = kept
        if generation != self._generation:
            return {}
        for partition, taken in found.items():
            self.consumer.seek(partition, taken[-1].offset + 1)
        return found

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Commit as the member that was given these partitions. Raises PartitionLost and KafkaError."""
        coordinator = self._coordinator
        generation = self._generation
        structure = {
            TopicPartition(*partition): OffsetAndMetadata(offset, "") for partition, offset in offsets.items()
        }
        while True:
            await coordinator.ensure_coordinator_known()
            # Asked before every try: aiokafka would commit as the member that it is by then, and as
            # nobody's member, which Kafka allows in an empty group.
            if generation < 0 or not (generation == self._generation == coordinator.generation):
                raise self._lost(offsets)
            if not offsets.keys() <= self._handed_out:
                raise self._lost(offsets.keys() - self._handed_out)
            try:
                async with coordinator._commit_lock:
                    await coordinator._do_commit_offsets(None, structure)
            except _NO_MEMBER as error:
                raise self._lost(offsets) from error
            except KafkaError as error:
                if not error.retriable:
                    raise
                await asyncio.sleep(_RETRY_S)
            else:
                return

    def _lost(self, partitions: Collection[Partition]) -> PartitionLost:
        names = ", ".join(f"{topic}-{number}" for topic, number in sorted(partitions))
        return PartitionLost(f"the group {self._coordinator.group_id} has given {names} out anew")

    async def lag(self) -> Mapping[Partition, int]:
        """Records of this member's partitions that the group has still to apply. Raises KafkaError."""
        return await count_lag(self.consumer, self._coordinator, sorted(self.assigned()))

    async def leave(self, timeout_s: float) -> None:
        """Leave the group, within the time."""
        await close(self.consumer, timeout_s)


async def count_lag(
    consumer: AIOKafkaConsumer, coordinator: Any, partitions: Sequence[TopicPartition]
) -> dict[Partition, int]:
    """Records between what the coordinator's group has committed and each partition's end."""
    if not partitions:
        return {}
    ends = await consumer.end_offsets(partitions)
    begins = await consumer.beginning_offsets(partitions)
    committed = await coordinator.fetch_committed_offsets(list(partitions))
    # What retention has removed, nobody can apply any more.
    return {
        Partition(*one): ends[one]
        - min(max(begins[one], committed[one].offset if one in committed else 0), ends[one])
        for one in partitions
    }


async def close(consumer: AIOKafkaConsumer, timeout_s: float) -> None:
    """Stop a consumer, within the time; aiokafka waits for a Kafka that is away."""
    with suppress(TimeoutError, KafkaError):
        async with asyncio.timeout(timeout_s):
            await consumer.stop()
    await _abandon(consumer)


async def _abandon(consumer: AIOKafkaConsumer) -> None:
    """End every task and connection of a consumer now; after its `stop` there is nothing left to do."""
    consumer._closed = True
    coordinator, fetcher = consumer._coordinator, consumer._fetcher
    tasks: list[asyncio.Task[Any] | None] = []
    if fetcher is not None:
        tasks += [fetcher._fetch_task, *fetcher._pending_tasks]
    for name in ("_coordination_task", "_heartbeat_task", "_commit_refresh_task", "_reset_committed_task"):
        tasks.append(getattr(coordinator, name, None))
    running = [task for task in tasks if task is not None and not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running, timeout=1.0)
    for each in tasks:
        if each is not None and each.done() and not each.cancelled():
            each.exception()  # seen here, so that it is not reported as never seen
    await consumer._client.close()
