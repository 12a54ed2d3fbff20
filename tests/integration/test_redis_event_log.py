"""The log of events on Redis Streams: what is its own beside the contract that every log keeps."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis

from pynomaly_tasks.embedded.redis_server import RedisServer, bundled_redis_binary, find_redis_binary
from pynomaly_tasks.errors import Conflict, EventLogUnavailable, EventRefused, NotFound, PartitionLost
from pynomaly_tasks.events.kafka.partitioning import key_hash
from pynomaly_tasks.events.ports import Partition, Record, StoredRecord
from pynomaly_tasks.events.redis_streams import keys
from pynomaly_tasks.events.redis_streams.consumer import RedisConsumer
from pynomaly_tasks.events.redis_streams.groups import forget_group, groups_of
from pynomaly_tasks.events.redis_streams.producer import RedisProducer
from pynomaly_tasks.events.redis_streams.reader import RedisReader

TOPICS = {"jobs": 3, "audit": 2}
PARTITIONS = {Partition(topic, number) for topic, n in TOPICS.items() for number in range(n)}
TIMEOUT_S = 20.0
LEASE_S = 1.0


@pytest.fixture(scope="module", params=["found", "bundled"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    binary = find_redis_binary() if request.param == "found" else bundled_redis_binary()
    with RedisServer(tmp_path_factory.mktemp("redis"), binary=binary) as started:
        yield started


@pytest.fixture
def url(server: RedisServer) -> str:
    with server.client() as client:
        client.flushall()
    return f"{server.url}/3"


def record(key: str | None = "job-1", value: str | None = "{}", topic: str = "jobs") -> Record:
    return Record(
        topic=topic,
        key=None if key is None else key.encode(),
        value=None if value is None else value.encode(),
    )


@asynccontextmanager
async def producing(url: str, **options):
    producer = RedisProducer(
        url, TOPICS, **{"keep_s": 3_600.0, "max_record_bytes": 1 << 20, "timeout_s": 2.0, **options}
    )
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def append(url: str, *records: Record) -> None:
    async with producing(url) as producer:
        assert await producer.send(records) == [None] * len(records)


class Member:
    """A consumer with what it was told and given."""

    def __init__(self, url: str, group: str = "dashboard", **options) -> None:
        self.consumer = RedisConsumer(
            url, group, options.pop("topics", TOPICS), **{"lease_s": LEASE_S, "timeout_s": 2.0, **options}
        )
        self.revocations: list[set[Partition]] = []
        self.records: list[StoredRecord] = []
        self.finish_revocation = asyncio.Event()
        self.finish_revocation.set()

    async def revoked(self, partitions: Collection[Partition]) -> None:
        self.revocations.append(set(partitions))
        await self.finish_revocation.wait()

    async def __aenter__(self) -> Member:
        await self.consumer.start(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.consumer.stop()

    @property
    def partitions(self) -> set[Partition]:
        return set(self.consumer._positions)

    async def take(self, n: int) -> list[StoredRecord]:
        """Poll until so many have come."""
        end = time.monotonic() + TIMEOUT_S
        taken: list[StoredRecord] = []
        while len(taken) < n:
            assert time.monotonic() < end, f"{len(taken)} of {n} records came"
            for records in (await self.consumer.poll(n, 0.5)).values():
                taken += records
        self.records += taken
        return taken

    async def commit_all(self) -> None:
        last = {Partition(r.topic, r.partition): r.offset + 1 for r in self.records}
        await self.consumer.commit(last)


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    end = time.monotonic() + TIMEOUT_S
    while True:
        answer = condition()
        if answer if isinstance(answer, bool) else await answer:
            return
        assert time.monotonic() < end, f"waited {TIMEOUT_S:g} s for {what}"
        await asyncio.sleep(0.02)


# What is appended


def test_offsets_and_entry_ids_are_the_same_without_loss() -> None:
    for entry_id in ("0-0", "0-1", "1700000000000-0", "1700000000000-1048575", "8796093022207-1048575"):
        assert keys.entry_id_of(keys.offset_of(entry_id)) == entry_id
    assert keys.offset_of("5-1048575") + 1 == keys.offset_of("6-0")


def test_record_comes_out_as_it_went_in(url: str) -> None:
    headers = [("ce_id", b"1"), ("ce_id", b"2"), ("empty", b""), ("grüße", b"\xff\x00:3,4")]
    sent = [
        Record(topic="jobs", key=b"\xff\x00", value=b"\x00" * 3, headers=headers),
        Record(topic="jobs", key=b"\xff\x00", value=None),
        Record(topic="jobs", key=b"\xff\x00", value=b""),
    ]

    async def scenario() -> None:
        before = time.time()
        await append(url, *sent)
        async with Member(url) as member:
            taken = await member.take(3)
        assert [(r.key, r.value, list(r.headers)) for r in taken] == [
            (r.key, r.value, list(r.headers)) for r in sent
        ]
        assert {r.partition for r in taken} == {key_hash(b"\xff\x00") % 3}
        assert all(before - 1 < r.at.timestamp() < time.time() + 1 for r in taken)

    asyncio.run(scenario())


def test_foreign_entry_is_handed_out_for_the_decoder_to_refuse(url: str, server: RedisServer) -> None:
    async def scenario() -> None:
        with server.client(3) as client:
            client.xadd("events:jobs:0", {"headers": b"9,9:short", "value": b"x"})
            client.xadd("events:jobs:0", {"other": b"x"})
        async with Member(url) as member:
            taken = await member.take(2)
        assert [(r.key, r.value, list(r.headers)) for r in taken] == [
            (None, b"x", [("unreadable-headers", b"9,9:short")]),
            (None, None, []),
        ]

    asyncio.run(scenario())


def test_offsets_stay_lossless_when_the_clock_of_redis_went_back(url: str, server: RedisServer) -> None:
    async def scenario() -> None:
        ahead = int(time.time() * 1_000) + 3_600_000
        stream = f"events:jobs:{key_hash(b'job-1') % 3}"
        with server.client(3) as client:
            client.xadd(stream, {"value": b"0"}, id=f"{ahead}-1048574")
        await append(url, *[record(value=str(n)) for n in range(1, 4)])
        async with Member(url) as member:
            taken = await member.take(4)
        assert [r.value for r in taken] == [b"0", b"1", b"2", b"3"]
        with server.client(3) as client:
            ids = [entry_id.decode() for entry_id, _ in client.xrange(stream)]
        assert [keys.entry_id_of(r.offset) for r in taken] == ids
        assert ids[2:] == [f"{ahead + 1}-0", f"{ahead + 1}-1"]

    asyncio.run(scenario())


def test_what_can_never_be_appended_is_refused_alone(url: str) -> None:
    async def scenario() -> None:
        async with producing(url, max_record_bytes=1_000) as producer:
            answers = await producer.send(
                [record(value="a"), record(topic="nowhere"), record(value="x" * 1_000), record(value="b")]
            )
        assert answers[0] is answers[3] is None
        assert isinstance(answers[1], EventRefused)
        assert "'nowhere'" in str(answers[1])
        assert isinstance(answers[2], EventRefused)
        assert "1,000" in str(answers[2])
        async with Member(url) as member:
            assert [r.value for r in await member.take(2)] == [b"a", b"b"]

    asyncio.run(scenario())


def test_batch_is_appended_whole_or_not_at_all_and_in_order(url: str) -> None:
    sent = [record(key=f"job-{n % 7}", value=str(n)) for n in range(5_000)]

    async def scenario() -> None:
        await append(url, *sent)
        async with Member(url) as member:
            taken = await member.take(5_000)
        for key in {r.key for r in sent}:
            assert [r.value for r in taken if r.key == key] == [r.value for r in sent if r.key == key]

    asyncio.run(scenario())


# Outages


def test_producer_and_consumer_come_back_with_redis(own_redis: RedisServer) -> None:
    async def scenario() -> None:
        url = f"{own_redis.url}/3"
        async with producing(url) as producer, Member(url) as member:
            assert await producer.send([record(value="before")]) == [None]
            await member.take(1)
            await member.commit_all()

            own_redis.kill()
            assert isinstance((await producer.send([record()]))[0], EventLogUnavailable)
            with pytest.raises(EventLogUnavailable):
                await member.consumer.poll(10, 0.1)
            with pytest.raises(EventLogUnavailable):
                await member.commit_all()
            await asyncio.to_thread(own_redis.start)

            assert await producer.send([record(value="after")]) == [None]
            assert [r.value for r in await member.take(1)] == [b"after"]

    asyncio.run(scenario())


def test_redis_that_does_not_answer_costs_no_more_than_the_timeout(own_redis: RedisServer) -> None:
    async def scenario() -> None:
        url = f"{own_redis.url}/3"
        async with producing(url, timeout_s=0.5) as producer, Member(url, timeout_s=0.5) as member:
            own_redis.signal(signal.SIGSTOP)
            started = time.monotonic()
            answers = await producer.send([record(key=f"job-{n}", value="x" * 100_000) for n in range(200)])
            assert {type(answer) for answer in answers} == {EventLogUnavailable}
            assert time.monotonic() - started < 2.0
            with pytest.raises(EventLogUnavailable):
                await member.consumer.poll(10, 0.1)
            assert time.monotonic() - started < 4.0
            own_redis.signal(signal.SIGCONT)

            assert await producer.send([record(value="after")]) == [None]
            end = time.monotonic() + TIMEOUT_S
            while b"after" not in [r.value for r in member.records]:
                assert time.monotonic() < end
                try:
                    await member.take(1)
                except EventLogUnavailable:
                    await asyncio.sleep(0.05)

    asyncio.run(scenario())


def test_full_redis_refuses_whole_batches_while_consumers_and_trimming_go_on(start_redis) -> None:
    server = start_redis(maxmemory="6mb")
    batch = [record(key=f"job-{n}", value="x" * 1_000) for n in range(200)]

    async def scenario() -> None:
        url = f"{server.url}/3"
        async with producing(url, keep_s=0.001, trim_every_s=0.0) as producer, Member(url) as member:
            n_sent = 0
            while (answers := await producer.send(batch)) == [None] * 200:
                n_sent += 200
            assert {type(answer) for answer in answers} == {EventLogUnavailable}
            assert n_sent >= 400

            assert len(await member.take(n_sent)) == n_sent  # no part of the refused batch is there
            await member.commit_all()
            assert sum((await member.consumer.lag()).values()) == 0

            # The failing send itself makes room: what every group has applied is trimmed.
            await producer.send(batch)
            assert await producer.send(batch) == [None] * 200
            assert len(await member.take(200)) >= 200

    asyncio.run(scenario())


# Groups


def test_two_members_share_fairly_and_one_that_leaves_is_replaced_at_once(url: str) -> None:
    async def scenario() -> None:
        async with Member(url, lease_s=30.0) as first:
            assert first.partitions == PARTITIONS
            async with Member(url, lease_s=30.0) as second:
                async with asyncio.TaskGroup() as polls:
                    polls.create_task(first.consumer.poll(10, 2.0))
                    polls.create_task(second.consumer.poll(10, 2.0))
                assert {len(first.partitions), len(second.partitions)} == {2, 3}
                assert first.partitions | second.partitions == PARTITIONS
                assert set().union(*first.revocations) == second.partitions
            started = time.monotonic()
            await append(url, *[record(key=f"job-{n}") for n in range(50)])
            await first.take(50)
            # Long before the leases of the one that left would have run out.
            assert time.monotonic() - started < 5.0
            assert first.partitions == PARTITIONS

    asyncio.run(scenario())


def test_partition_goes_on_to_the_next_member_only_when_its_reader_has_finished(url: str) -> None:
    async def scenario() -> None:
        await append(url, *[record(key=f"job-{n}", value=str(n)) for n in range(30)])
        async with Member(url) as first:
            taken = await first.take(30)
            first.finish_revocation.clear()
            async with Member(url) as second:
                await until(lambda: bool(first.revocations), "the first to be asked")
                # For longer than its lease, which is renewed while it finishes.
                assert await second.consumer.poll(100, 2 * LEASE_S) == {}
                assert second.partitions == set()
                assert not [p for p in await first.consumer.poll(100, 0.0) if p in first.revocations[0]]
                await first.commit_all()
                first.finish_revocation.set()
                await until(lambda: second.partitions == first.revocations[0], "the second to take over")
                assert await second.consumer.poll(100, 0.2) == {}  # all of it is applied
            assert len(taken) == 30

    asyncio.run(scenario())


def test_stale_member_hands_out_nothing_and_its_commit_is_refused(server: RedisServer, url: str) -> None:
    async def scenario() -> None:
        await append(url, *[record(key=f"job-{n}", value=str(n)) for n in range(20)])
        async with Member(url) as stale:
            await stale.take(20)
            # As a process that was stopped: its leases are not renewed, its clock goes on.
            for task in stale.consumer._tasks:
                task.cancel()
            await asyncio.wait(stale.consumer._tasks)
            async with Member(url) as other:
                assert {r.value for r in await other.take(20)} == {str(n).encode() for n in range(20)}
                await other.commit_all()
                with pytest.raises(PartitionLost, match="jobs:"):
                    await stale.commit_all()
                assert sum((await other.consumer.lag()).values()) == 0
            stale.consumer._tasks.clear()

    asyncio.run(scenario())


def test_member_whose_lease_ran_out_learns_it_and_joins_again(own_redis: RedisServer) -> None:
    async def scenario() -> None:
        url = f"{own_redis.url}/3"
        async with Member(url) as member:
            with own_redis.client(3) as client:
                client.hset(keys.leases("dashboard"), "jobs:0", f"{int(time.time() * 1_000) + 2_000} other")
                client.hset(
                    keys.members("dashboard"), "other", f"{int(time.time() * 1_000) + 2_000} jobs=3,audit=2"
                )
            await until(lambda: {Partition("jobs", 0)} in member.revocations, "the member to be told")
            assert Partition("jobs", 0) not in member.partitions
            with pytest.raises(PartitionLost):
                await member.consumer.commit({Partition("jobs", 0): 1 << 20})
            await until(lambda: member.partitions == PARTITIONS, "the other's lease to run out")
            await member.consumer.commit({Partition("jobs", 0): 1 << 20})

    asyncio.run(scenario())


def test_late_commit_never_sets_a_group_back(url: str) -> None:
    async def scenario() -> None:
        async with Member(url) as member:
            partition = Partition("jobs", 1)
            await member.consumer.commit({partition: keys.offset_of("1700000000000-10")})
            await member.consumer.commit({partition: keys.offset_of("1700000000000-9")})
            await member.consumer.commit({partition: keys.offset_of("999999999999-9")})
            offset = await member.consumer._connection.execute("HGET", keys.offsets("dashboard"), "jobs:1")
        assert offset == b"1700000000000-10"

    asyncio.run(scenario())


def test_error_of_the_callers_own_revocation_is_not_lost(url: str) -> None:
    class Failing(Member):
        async def revoked(self, partitions: Collection[Partition]) -> None:
            raise RuntimeError("the caller's own mistake")

    async def scenario() -> None:
        async with Failing(url) as first, Member(url) as second:
            with pytest.raises(RuntimeError, match="own mistake"):
                while True:
                    await first.consumer.poll(10, 0.1)
            assert second.partitions <= PARTITIONS

    asyncio.run(scenario())


def test_new_record_wakes_the_waiting_member_at_once(url: str) -> None:
    async def scenario() -> None:
        async with producing(url) as producer, Member(url) as member:
            waited: list[float] = []
            for _ in range(20):
                waiting = asyncio.create_task(member.take(1))
                await asyncio.sleep(0.02)
                started = time.monotonic()
                await producer.send([record()])
                await waiting
                waited.append(time.monotonic() - started)
        assert sorted(waited)[10] < 0.1

    asyncio.run(scenario())


def test_large_records_come_in_small_answers(url: str) -> None:
    async def scenario() -> None:
        async with producing(url) as producer, Member(url) as member:
            large = [record(key=f"job-{n}", value="x" * 500_000) for n in range(150)]
            assert await producer.send(large) == [None] * 150
            sizes: list[int] = []
            while sum(sizes) < 150:
                sizes.append(sum(len(found) for found in (await member.consumer.poll(500, 1.0)).values()))
            assert sum(sizes) == 150
            assert max(sizes) <= 3 * 16
            assert max(sizes[2:]) * 500_000 <= 8 << 20

            await producer.send([record(key=f"job-{n}", value="x") for n in range(5_000)])
            assert len(await member.take(5_000)) == 5_000
            await producer.send([record(key=f"job-{n}", value="x") for n in range(1_000)])
            assert sum(len(found) for found in (await member.consumer.poll(500, 1.0)).values()) > 400

    asyncio.run(scenario())


# Keeping


def test_records_are_trimmed_once_they_are_old_and_every_group_has_applied_them(url: str) -> None:
    batch = [record(value=str(n)) for n in range(500)]
    stream = keys.stream(Partition("jobs", key_hash(b"job-1") % 3))

    async def scenario() -> None:
        async with (
            producing(url, keep_s=0.001, trim_every_s=0.0) as producer,
            Member(url, "dashboard") as quick,
            Member(url, "audit") as slow,
        ):
            n_left = lambda: quick.consumer._connection.execute("XLEN", stream)  # noqa: E731
            await producer.send(batch)
            await quick.take(500)
            await quick.commit_all()
            await producer.send(batch[:1])
            assert await n_left() == 501  # the other group has not read them

            assert len(await slow.take(501)) == 501
            await slow.commit_all()
            await producer.send(batch[:1])
            assert await n_left() < 202
            assert [r.value for r in await slow.take(1)] == [b"0"]
            assert len(await quick.take(2)) == 2

    asyncio.run(scenario())


def test_young_records_stay_for_replays(url: str) -> None:
    async def scenario() -> None:
        async with producing(url, keep_s=3_600.0, trim_every_s=0.0) as producer, Member(url) as member:
            await producer.send([record()] * 500)
            await member.take(500)
            await member.commit_all()
            await producer.send([record()])
            reader = RedisReader(url, TOPICS)
            assert len(await reader.read("jobs", since=None, until=None, max_records=1_000)) == 501

    asyncio.run(scenario())


def test_topic_with_a_time_of_its_own_is_kept_for_that(url: str) -> None:
    async def scenario() -> None:
        own = {"audit": float("inf")}
        async with producing(url, keep_s=0.001, keep_longer_s=own, trim_every_s=0.0) as producer:
            await producer.send([record(topic=topic, key="k") for topic in TOPICS for _ in range(500)])
            await asyncio.sleep(0.01)
            await producer.send([])
        reader = RedisReader(url, TOPICS)
        assert len(await reader.read("audit", since=None, until=None, max_records=1_000)) == 500
        assert len(await reader.read("jobs", since=None, until=None, max_records=1_000)) < 200

    asyncio.run(scenario())


def test_group_that_is_gone_for_good_is_forgotten(url: str) -> None:
    async def scenario() -> None:
        await append(url, record())
        async with Member(url, "old"):
            with pytest.raises(Conflict, match="still runs"):
                await forget_group(url, TOPICS, "old")
            assert await groups_of(url, TOPICS) == {"old": ["jobs", "audit"]}
        await forget_group(url, TOPICS, "old")
        assert await groups_of(url, TOPICS) == {}
        with pytest.raises(NotFound):
            await forget_group(url, TOPICS, "old")

    asyncio.run(scenario())


def test_every_key_expires_or_is_the_log_itself(url: str, server: RedisServer) -> None:
    async def scenario() -> None:
        async with producing(url, trim_every_s=0.0) as producer, Member(url) as member:
            await producer.send([record(key=f"job-{n}") for n in range(20)])
            await member.take(20)
            await member.commit_all()

    asyncio.run(scenario())
    with server.client(3) as client:
        lasting = {key.decode() for key in client.keys("*") if client.ttl(key) == -1}
    assert lasting <= {
        "events:counts", "events:groups:jobs", "events:groups:audit", "events:group:dashboard:offsets",
        *(keys.stream(partition) for partition in PARTITIONS),
    }  # fmt: skip
    assert "events:group:dashboard:offsets" in lasting


# Looking


def test_reader_reads_every_partition_page_by_page_without_loss(url: str) -> None:
    sent = {f"{n}".encode() for n in range(300)}

    async def scenario() -> None:
        async with producing(url) as producer:
            for value in sent:
                await producer.send([record(key=f"job-{value!r}", value=value.decode())])
        reader = RedisReader(url, TOPICS)
        found: dict[tuple[int, int], StoredRecord] = {}
        since = None
        while page := [
            r
            for r in await reader.read("jobs", since=since, until=None, max_records=200)
            if (r.partition, r.offset) not in found
        ]:
            found |= {(r.partition, r.offset): r for r in page}
            since = page[-1].at
        assert sorted(r.value for r in found.values()) == sorted(sent)
        assert {r.partition for r in found.values()} == {0, 1, 2}
        with pytest.raises(NotFound):
            await reader.read("nowhere", since=None, until=None, max_records=7)

    asyncio.run(scenario())


def test_reader_keeps_to_the_time_asked_for(url: str) -> None:
    async def scenario() -> None:
        async with producing(url) as producer:
            for n in range(3):
                await producer.send([record(value=str(n))])
                await asyncio.sleep(0.01)
        reader = RedisReader(url, TOPICS)
        all_three = await reader.read("jobs", since=None, until=None, max_records=10)
        from_second = await reader.read("jobs", since=all_three[1].at, until=None, max_records=10)
        first_one = await reader.read("jobs", since=None, until=all_three[1].at, max_records=10)
        assert [r.value for r in from_second] == [b"1", b"2"]
        assert [r.value for r in first_one] == [b"0"]

    asyncio.run(scenario())


def test_lag_counts_what_a_group_has_still_to_apply(url: str) -> None:
    async def scenario() -> None:
        reader = RedisReader(url, TOPICS)
        async with producing(url, keep_s=0.001, trim_every_s=0.0) as producer, Member(url) as member:
            assert set((await member.consumer.lag()).values()) == {0}
            await producer.send([record(key=f"job-{n}") for n in range(1_000)])
            assert sum((await member.consumer.lag()).values()) == 1_000
            assert sum((await reader.lag("never-read", TOPICS)).values()) == 1_000
            await member.take(1_000)
            await member.commit_all()
            assert sum((await reader.lag("dashboard", ["jobs"])).values()) == 0
            await producer.send([record(key=f"job-{n}") for n in range(30)])
            await producer.send([])  # trims
            assert sum((await reader.lag("dashboard", ["jobs"])).values()) == 30

    asyncio.run(scenario())


def test_member_of_an_older_version_leaves_no_partition_unread(url: str) -> None:
    async def scenario() -> None:
        async with Member(url, topics={"jobs": 3}) as older, Member(url) as newer:
            await until(lambda: older.partitions | newer.partitions == PARTITIONS, "all to be read")
            assert len(older.partitions & newer.partitions) == 0
            assert {p.topic for p in older.partitions} == {"jobs"}

    asyncio.run(scenario())


def test_redis_is_named_when_it_cannot_be_reached(tmp_path: Path) -> None:
    async def scenario() -> None:
        consumer = RedisConsumer("redis://127.0.0.1:1/3", "dashboard", TOPICS, timeout_s=1.0)
        with pytest.raises(EventLogUnavailable, match="Redis that keeps the events"):
            await consumer.start(Member("redis://127.0.0.1:1/3"))
        await consumer.stop()

    asyncio.run(scenario())


def test_bad_address_is_no_outage() -> None:
    with pytest.raises(ValueError, match="scheme"):
        RedisConsumer("nonsense", "dashboard", TOPICS)
    assert issubclass(redis.exceptions.ConnectionError, redis.RedisError)
