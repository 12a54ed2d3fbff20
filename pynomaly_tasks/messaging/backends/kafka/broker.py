"""Queues on Apache Kafka, 2.1 or newer: messages in topics, and a ledger that says who holds what.

A lane is a topic of one partition, so its order is total. Kafka gives a partition to one consumer of a
group and acknowledges offsets; here any number of consumers share a lane and settle each message by
itself: claims, acknowledgements and extensions are records of one more topic, the *ledger*, which every
process reads (`ledger`). There is no consumer group, and so no rebalance: nothing is handed
out again because somebody came or went.

| capability | how |
|---|---|
| ack, groups | emulated: a claim in the ledger hands out, a settlement in it ends; the first one written counts |
| leases, delivery counts | in the ledger, by the broker's clock (`LogAppendTime`); a late holder settles nothing |
| order | native: a partition's; what is released keeps its place |
| confirmations, catalog | emulated: records of the ledger |
| replay | emulated: settled messages stay in their topic for ``keep_hours``, and can be sent again from there |
| depth | emulated: the end of the topic beside the ledger |
| purge | emulated: the ledger settles what waits |
| persistence | native: acks=all from an idempotent producer |
| priority, delay, deduplication, ttl, max_size, dead_letters | emulated, above (`emulation`) |

Topics never expire by themselves, for Kafka's retention knows nothing of what is settled: what is, and is
older than ``keep_hours``, is deleted (`DeleteRecords`) by the processes that use the lane. Every process
reads the whole ledger of its namespace; a namespace of its own keeps busy queues apart.
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Hashable, Sequence
from datetime import datetime

from pynomaly_tasks.errors import MessagingClosed
from pynomaly_tasks.messaging.backend import Catalog, Note
from pynomaly_tasks.messaging.backends.abilities import KAFKA
from pynomaly_tasks.messaging.backends.coalescing import Coalescer
from pynomaly_tasks.messaging.backends.kafka.address import KafkaAddress, find_hours, find_number, parse_url
from pynomaly_tasks.messaging.backends.kafka.follower import SNAPSHOT_EVERY, Follower
from pynomaly_tasks.messaging.backends.kafka.history import read_past
from pynomaly_tasks.messaging.backends.kafka.items import Items
from pynomaly_tasks.messaging.backends.kafka.keeper import Keeper
from pynomaly_tasks.messaging.backends.kafka.ledger import Claimed, Lane
from pynomaly_tasks.messaging.backends.kafka.wire import MAX_ITEM_BYTES, KafkaWire, TopicGone
from pynomaly_tasks.messaging.plain_broker import Item, LaneCount, LaneGone, Lying, Past, Taken, Traits

#: One settlement in the ledger, about.
_TOKEN_BYTES = 100
_TOPIC_CONFIG = {
    # Leases go by it: one clock for all.
    "message.timestamp.type": "LogAppendTime",
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "max.message.bytes": str(MAX_ITEM_BYTES + 131_072),
}


class KafkaBroker:
    """A connection to the lanes of one namespace.

    ``url``: kafka://host:port,host:port, or kafkas:// with TLS; with user:password@ it logs in by SASL.
    Options behind a ``?``: mechanism (PLAIN, SCRAM-SHA-256, SCRAM-SHA-512), ca_file, replication (copies
    of each topic; default 3, or the number of brokers), keep_hours (how long what is settled can be
    replayed; default 24).
    """

    name = "kafka"
    capabilities = KAFKA
    traits = Traits(release_keeps_place=True, release_counts=True, max_item_bytes=3_000_000)
    topic_config = _TOPIC_CONFIG
    can_delete_records = True

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "pynomaly:messaging",
        connect_timeout_s: float = 2.0,
        timeout_s: float = 10.0,
    ) -> None:
        """Nothing is connected yet. ``timeout_s``: an unanswered question fails after it."""
        self._address, options = self._parse(url)
        self._prefix = re.sub(r"[^A-Za-z0-9._-]", ".", namespace)
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._replication = find_number(options, "replication")
        self._keep_s = find_hours(options) * 3600
        self._waiters: set[asyncio.Future[None]] = set()
        self._is_open = False

    def _parse(self, url: str) -> tuple[KafkaAddress, dict[str, str]]:
        return parse_url(url)

    async def open(self) -> None:
        """Connect, and read the ledger."""
        if self._is_open:
            return
        self._wire = KafkaWire(
            self._address,
            connect_timeout_s=self._connect_timeout_s,
            timeout_s=self._timeout_s,
            topic_config=self.topic_config,
            replication=self._replication,
        )
        await self._wire.open()
        self._items = Items(self._wire, self._wake)
        self._follower = Follower(
            self._wire,
            f"{self._prefix}.ledger",
            timeout_s=self._timeout_s,
            on_change=self._changed,
            snapshot_every=SNAPSHOT_EVERY,
            shortens=self.can_delete_records,
        )
        self._keeper = Keeper(
            self._wire, self._follower, self._topic, keep_s=self._keep_s, deletes=self.can_delete_records
        )
        self._settlements = Coalescer(self._settle, lambda _: _TOKEN_BYTES)
        self._made: set[str] = set()
        self._is_open = True
        try:
            await self._follower.start()
            self._keeper.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Give the connections back. What is held comes again when its lease ends."""
        if not self._is_open:
            return
        await self._settlements.flush()
        self._is_open = False
        self._wake()
        await self._keeper.stop()
        await self._items.stop()
        await self._follower.stop()
        await self._wire.close()

    async def ping(self) -> None:
        """One round trip."""
        self._check_open()
        await self._follower.sync()

    async def read_catalog(self) -> Catalog:
        """All records."""
        self._check_open()
        await self._follower.sync()
        ledger = self._follower.ledger
        return Catalog(ledger.version, dict(ledger.records))

    async def declare(self, name: str, record: bytes) -> bytes:
        """Keep the record, or return the one that stands."""
        self._check_open()
        standing: bytes = await self._follower.command("declare", name, base64.b64encode(record).decode())
        return standing

    async def forget(self, name: str) -> bool:
        """Drop a record."""
        self._check_open()
        return bool(await self._follower.command("forget", name))

    async def make_lane(self, lane: str) -> None:
        """Its place in the ledger, and its topic."""
        self._check_open()
        if lane not in self._follower.ledger.lanes:
            await self._follower.command("make", lane)
        _, topic = self._find(lane)
        if topic not in self._made:
            await self._wire.make_topic(topic)
            self._made.add(topic)

    async def erase_lane(self, lane: str) -> None:
        """From here on nothing of it counts; then its topic goes."""
        self._check_open()
        lane_id = await self._follower.command("erase", lane)
        if lane_id is not None:
            await self._wire.delete_topic(self._topic(lane, lane_id))

    async def append(self, items: Sequence[Item]) -> None:
        """In order, as one batch where they fit into one."""
        self._check_open()
        topics = [self._find(item.lane)[1] for item in items]
        records = [(topic, item.data) for topic, item in zip(topics, items, strict=True)]
        offsets = await self._wire.send(records)
        for topic, offset in zip(topics, offsets, strict=True):
            self._items.note_end(topic, offset + 1)
        self._wake()

    async def take(
        self, lanes: Sequence[str], *, max_items: int, lease_s: float, wait_s: float
    ) -> list[Taken]:
        """A claim in the ledger, written only when there is something to claim."""
        end = time.monotonic() + wait_s
        is_sure = False
        while True:
            self._check_open()
            n_known = self._count_waiting(lanes)
            if n_known < max_items and not is_sure:
                # What others did up to now must count, and nobody told us yet.
                await self._look(lanes)
                is_sure = True
            elif n_known:
                claim = asyncio.create_task(self._claim(lanes, max_items, lease_s))
                try:
                    taken = await asyncio.shield(claim)
                except asyncio.CancelledError:
                    claim.add_done_callback(self._give_up)
                    raise
                if taken:
                    return taken
            elif (left_s := end - time.monotonic()) <= 0:
                return []
            else:
                await self._wait(lanes, left_s)

    def _count_waiting(self, lanes: Sequence[str]) -> int:
        now_ms = int(self._follower.now_ms())
        found = [self._find(lane) for lane in lanes]
        return sum(lane.n_waiting(self._items.end(topic), now_ms) for lane, topic in found)

    async def _look(self, lanes: Sequence[str]) -> None:
        topics = [self._find(lane)[1] for lane in lanes]
        await asyncio.gather(self._follower.sync(), *(self._items.look(topic) for topic in topics))

    async def _wait(self, lanes: Sequence[str], left_s: float) -> None:
        """Until something may have come, or ``left_s`` passed."""
        now_ms = self._follower.now_ms()
        due_s = left_s
        for lane, topic in map(self._find, lanes):
            self._items.watch(topic)
            if (ends_ms := lane.next_end_ms()) is not None:
                due_s = min(due_s, max(0.0, ends_ms - now_ms) / 1000 + 0.001)
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=due_s)
        finally:
            self._waiters.discard(waiter)

    async def _claim(self, lanes: Sequence[str], max_items: int, lease_s: float) -> list[Taken]:
        found = [(name, *self._find(name)) for name in lanes]
        wanted = [(name, lane.id, self._items.end(topic)) for name, lane, topic in found]
        claimed: list[tuple[Claimed, int]] = await self._follower.command(
            "take", wanted, max_items, max(1, round(lease_s * 1000))
        )
        taken: list[Taken] = []
        holes: list[Claimed] = []
        for name, lane, topic in found:
            mine = [(token, n) for token, n in claimed if token[0] == name and token[1] == lane.id]
            records = await self._items.read(topic, [token[2] for token, _ in mine])
            for token, n_earlier in mine:
                record = records.get(token[2])
                if record is None:
                    holes.append(token)  # such as the end of somebody's transaction
                else:
                    taken.append(Taken(lane=name, token=token, data=record.data, n_earlier=n_earlier))
        if holes:
            await self._follower.command("settle", holes)
        return taken

    def _give_up(self, claim: asyncio.Task[list[Taken]]) -> None:
        """Whoever asked is gone: as if nothing had been handed out."""
        if claim.cancelled() or claim.exception() is not None or not claim.result() or not self._is_open:
            return
        self._follower.run_beside("release", [each.token for each in claim.result()], False)

    async def acknowledge(self, taken: Sequence[Taken]) -> list[bool]:
        """They are done."""
        self._check_open()
        return await self._settlements.call(None, taken) if taken else []

    async def _settle(self, _: Hashable, taken: Sequence[Taken]) -> list[bool]:
        answers: list[bool] = await self._follower.command("settle", [each.token for each in taken])
        for each in taken:
            name, lane_id, offset, _fence = self._token(each)
            self._items.drop(self._topic(name, lane_id), [offset])
            self._keeper.touched.add(name)
        return answers

    async def release(self, taken: Taken) -> bool:
        """Hand it out again, in its old place."""
        self._check_open()
        (answer,) = await self._follower.command("release", [taken.token], True)
        return bool(answer)

    async def extend(self, taken: Sequence[Taken], *, lease_s: float) -> list[bool]:
        """Let the leases end later."""
        self._check_open()
        answers: list[bool] = await self._follower.command(
            "extend", [each.token for each in taken], max(1, round(lease_s * 1000))
        )
        return answers

    async def purge(self, lane: str) -> int:
        """Settle what waits."""
        self._check_open()
        await self._look([lane])
        found, topic = self._find(lane)
        self._keeper.touched.add(lane)
        return int(await self._follower.command("purge", lane, found.id, self._items.end(topic)))

    async def count(self, lane: str) -> LaneCount:
        """The topic's end, beside what the ledger says."""
        self._check_open()
        await self._look([lane])
        found, topic = self._find(lane)
        now_ms = self._follower.now_ms()
        n_waiting = found.n_fresh(self._items.end(topic))
        n_held = sum(slot.until_ms is not None and slot.until_ms > now_ms for slot in found.open.values())
        n_waiting += len(found.open) - n_held
        age_s = 0.0
        if n_waiting or n_held:
            first = await self._items.read(topic, [found.low])
            age_s = max([0.0, *((now_ms - each.timestamp_ms) / 1000 for each in first.values())])
        return LaneCount(waiting=n_waiting, held=n_held, oldest_age_s=age_s)

    async def browse(self, lane: str, *, after: str, limit: int) -> list[Lying]:
        """What waits, in order; a key is an offset and one."""
        self._check_open()
        await self._look([lane])
        found, topic = self._find(lane)
        offsets = found.lying(self._items.end(topic), int(after or 0), limit)
        records = await self._items.read(topic, offsets)
        return [Lying(key=str(at + 1), data=records[at].data) for at in offsets if at in records]

    async def find(self, lane: str, key: str) -> Lying | None:
        """One that waits."""
        if not key.isascii() or not key.isdecimal() or int(key) < 1:
            return None
        found = await self.browse(lane, after=str(int(key) - 1), limit=1)
        return found[0] if found and found[0].key == key else None

    async def remove(self, lane: str, key: str) -> bool:
        """Settle one that nobody holds."""
        self._check_open()
        await self._look([lane])
        found, topic = self._find(lane)
        self._keeper.touched.add(lane)
        at, end = int(key) - 1, self._items.end(topic)
        return bool(await self._follower.command("drop", lane, found.id, at, end))

    async def read_back(self, lane: str, *, since: datetime | int, after: str, limit: int) -> list[Past]:
        """What the topic still has; the ledger says what of it is settled."""
        self._check_open()
        await self._look([lane])
        found, topic = self._find(lane)
        try:
            return await read_past(self._wire, topic, found.is_settled, since=since, after=after, limit=limit)
        except TopicGone as error:
            raise LaneGone(f"Kafka has no topic {topic}") from error

    async def add_note(self, note: Note) -> None:
        """A record of the ledger."""
        self._check_open()
        await self._follower.command("note", note.key, note.member, round(note.keep_s * 1000))

    async def read_notes(self, key: str) -> frozenset[str]:
        """The members noted under the key."""
        self._check_open()
        await self._follower.sync()
        until_ms, members = self._follower.ledger.notes.get(key, (0, set()))
        return frozenset(members) if until_ms > self._follower.now_ms() else frozenset()

    def _find(self, lane: str) -> tuple[Lane, str]:
        found = self._follower.ledger.lanes.get(lane)
        if found is None:
            raise LaneGone(f"the ledger {self._prefix}.ledger has no lane {lane}")
        return found, self._topic(lane, found.id)

    def _topic(self, lane: str, lane_id: int) -> str:
        readable = re.sub(r"[^A-Za-z0-9._-]", "_", lane)[:120]
        return f"{self._prefix[:100]}.{readable}.{lane_id}"

    def _token(self, taken: Taken) -> Claimed:
        token = taken.token
        assert isinstance(token, tuple)
        return token

    def _changed(self) -> None:
        erased, self._follower.ledger.erased = self._follower.ledger.erased, []
        for lane, lane_id in erased:
            topic = self._topic(lane, lane_id)
            self._items.forget(topic)
            self._wire.forget_topic(topic)
            self._made.discard(topic)
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _check_open(self) -> None:
        if not self._is_open:
            raise MessagingClosed(
                f"the {self.name} backend is not open; use it in `async with`, or call open()"
            )
