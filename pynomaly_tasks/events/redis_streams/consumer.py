"""Reads events from Redis Streams as one member of a group."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pynomaly_tasks.errors import EventLogUnavailable, PartitionLost
from pynomaly_tasks.events.ports import Assignment, Partition, StoredRecord
from pynomaly_tasks.events.redis_streams import keys
from pynomaly_tasks.events.redis_streams.connection import Connection
from pynomaly_tasks.events.redis_streams.entries import stored_record
from pynomaly_tasks.events.redis_streams.membership import Membership, Share, lag_of
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)

# Two renewals may fail before another member can take the partitions; the third comes in time.
_RENEWALS_PER_LEASE = 4
_LONGEST_BLOCK_S = 5.0
#: Of one answer, about: Redis takes a number of entries alone, and one may have half a megabyte.
_ANSWER_BYTES = 8 << 20
_FIRST_COUNT = 16


class RedisConsumer:
    """Holds its partitions by leases, which it renews whatever the caller does between two polls.

    A record is handed out once to this member, from the group's committed offset on; a group that
    never committed starts with the oldest record there is. When the leases may have run out, as after
    a pause of the process, nothing is handed out until they are renewed.
    """

    def __init__(
        self,
        url: str,
        group: str,
        topics: Mapping[str, int],
        *,
        lease_s: float = 10.0,
        timeout_s: float = 5.0,
    ) -> None:
        """``topics``: name to number of partitions. ``lease_s``: after this a dead member is replaced."""
        self._group = group
        self._lease_s = lease_s
        # Commits go beside the read that waits for news.
        self._connection = Connection(url, timeout_s)
        self._membership = Membership(self._connection, group, topics, lease_s=lease_s)
        self._positions: dict[Partition, int] = {}
        self._leaving: set[Partition] = set()  # asked to be given up
        self._seen_change = "0-0"
        self._n_busy = 1  # partitions that had records the last time
        self._count = _FIRST_COUNT  # of each partition; follows the size of what comes
        # What a renewal answers and what was released meanwhile must not overtake one another.
        self._sharing = asyncio.Lock()
        self._look_now = asyncio.Event()
        self._renewed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._assignment: Assignment | None = None

    async def start(self, assignment: Assignment) -> None:
        """See `Consumer.start`."""
        self._assignment = assignment
        await self._share()
        self._spawn(self._keep_leases(), "leases")

    async def poll(
        self, max_records: int, timeout_s: float, *, paused: Collection[Partition] = ()
    ) -> Mapping[Partition, Sequence[StoredRecord]]:
        """See `Consumer.poll`."""
        end = time.monotonic() + timeout_s
        while True:
            self._raise_what_failed()
            left_s = end - time.monotonic()
            if not self._membership.is_sure():
                await self._wait_for_renewal(left_s)
            records = await self._read(max_records, max(0.0, min(left_s, _LONGEST_BLOCK_S)), paused)
            if records or time.monotonic() >= end:
                return records

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        """See `Consumer.commit`. What is still this member's is written also when another one is lost."""
        if lost := await self._membership.commit(offsets):
            self._look_now.set()
            names = ", ".join(sorted(map(keys.field, lost)))
            raise PartitionLost(f"another member of {self._group} reads {names} now")

    async def lag(self) -> Mapping[Partition, int]:
        """See `Consumer.lag`."""
        return await lag_of(self._connection, self._group, sorted(self._positions))

    async def stop(self) -> None:
        """See `Consumer.stop`. Without Redis the leases run out by themselves."""
        await _end(self._tasks)
        self._positions.clear()
        try:
            await self._membership.leave()
        except EventLogUnavailable as error:
            log.warning("group_not_left", group=self._group, reason=str(error))
        finally:
            await self._connection.aclose()

    async def _read(
        self, max_records: int, block_s: float, paused: Collection[Partition]
    ) -> Mapping[Partition, Sequence[StoredRecord]]:
        wanted = [p for p in self._positions if p not in self._leaving and p not in paused]
        after = {keys.changes(self._group): self._seen_change}
        after |= {keys.stream(p): keys.entry_id_of(max(0, self._positions[p] - 1)) for p in wanted}
        block = ("BLOCK", max(1, int(block_s * 1_000))) if block_s > 0 else ()
        count = max(1, min(max_records // self._n_busy, self._count))
        answer = await self._connection.execute(
            "XREAD", "COUNT", count, *block, "STREAMS", *after, *after.values(), may_block_s=block_s
        )
        entries: dict[bytes, Any] = dict(answer or ())
        changed = entries.pop(keys.changes(self._group).encode(), None)
        self._fit(count, entries)
        if changed:
            self._seen_change = changed[-1][0].decode()
            self._look_now.set()
        if not self._membership.is_sure():
            return {}  # this process was paused while it read: somebody else may read these by now
        return self._hand_out(max_records, wanted, entries)

    def _fit(self, count: int, entries: Mapping[bytes, Any]) -> None:
        """Ask for fewer records the next time when these were large, for more when there are many small ones."""
        self._n_busy = max(1, len(entries))
        sizes = [sum(map(len, fields.values())) for found in entries.values() for _, fields in found]
        if sum(sizes) > _ANSWER_BYTES:
            self._count = max(1, count // 2)
        elif sum(sizes) < _ANSWER_BYTES // 4 and any(len(found) == self._count for found in entries.values()):
            self._count *= 2

    def _hand_out(
        self, max_records: int, wanted: Sequence[Partition], entries: Mapping[bytes, Any]
    ) -> Mapping[Partition, Sequence[StoredRecord]]:
        found: dict[Partition, Sequence[StoredRecord]] = {}
        for partition in wanted:
            mine = partition in self._positions and partition not in self._leaving
            fresh = entries.get(keys.stream(partition).encode(), [])[:max_records] if mine else []
            if not fresh:
                continue
            records = [stored_record(partition, entry_id, fields) for entry_id, fields in fresh]
            found[partition] = records
            # To the end of the row: the next poll begins with those that had no turn in this one.
            del self._positions[partition]
            self._positions[partition] = records[-1].offset + 1
            max_records -= len(records)
        return found

    async def _wait_for_renewal(self, left_s: float) -> None:
        self._renewed.clear()
        self._look_now.set()
        try:
            async with asyncio.timeout(max(left_s, 0.0) + self._connection.timeout_s):
                await self._renewed.wait()
        except TimeoutError:
            raise EventLogUnavailable(f"the leases of {self._group} could not be renewed in time") from None

    async def _keep_leases(self) -> None:
        reachable = True
        while True:
            pause_s = self._lease_s / _RENEWALS_PER_LEASE
            try:
                async with asyncio.timeout(pause_s if reachable else pause_s / 4):
                    await self._look_now.wait()
            except TimeoutError:
                pass  # time to renew
            self._look_now.clear()
            try:
                await self._share()
            except EventLogUnavailable as error:
                if reachable:
                    log.warning("group_unreachable", group=self._group, reason=str(error))
                reachable = False
            else:
                if not reachable:
                    log.info("group_reachable_again", group=self._group)
                reachable = True

    async def _share(self) -> None:
        async with self._sharing:
            self._apply(await self._membership.share())

    def _apply(self, share: Share) -> None:
        lost = self._positions.keys() - share.offsets.keys() - self._leaving
        for partition in lost:
            del self._positions[partition]
        for partition in share.offsets.keys() - self._positions.keys():
            self._positions[partition] = share.offsets[partition]
            log.debug("partition_assigned", group=self._group, partition=keys.field(partition))
        if lost:
            log.warning("partitions_lost", group=self._group, partitions=sorted(map(keys.field, lost)))
            self._spawn(self._tell(frozenset(lost)), "lost")
        if fresh := share.too_many - self._leaving:
            self._leaving |= fresh
            self._spawn(self._give_up(fresh), "revoked")
        self._renewed.set()

    async def _tell(self, partitions: Collection[Partition]) -> None:
        assert self._assignment is not None
        await self._assignment.revoked(partitions)

    async def _give_up(self, partitions: frozenset[Partition]) -> None:
        """Have the caller finish, the leases being renewed meanwhile; then let others read on."""
        try:
            await self._tell(partitions)
            async with self._sharing:
                await self._membership.release(partitions)
                for partition in partitions:
                    self._positions.pop(partition, None)
        except EventLogUnavailable as error:
            # They are still ours, or run out; the next renewal finds that out, and tries again.
            log.warning("partitions_not_released", group=self._group, reason=str(error))
        finally:
            self._leaving -= partitions
            self._look_now.set()

    def _spawn(self, work: Any, name: str) -> None:
        self._tasks.add(asyncio.create_task(work, name=f"{name} of {self._group}"))

    def _raise_what_failed(self) -> None:
        """An error of the caller's own `revoked` must not be lost with its task."""
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            task.result()


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    # Cancelled until it has worked: Python 3.11's wait_for, which redis-py uses, may swallow one.
    while running := {task for task in tasks if not task.done()}:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=0.1)
    tasks.clear()
