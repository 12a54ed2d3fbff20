"""What every log of events does, whichever server keeps it: one suite over all of them."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import EventLogUnavailable, EventRefused, NotFound, PartitionLost
from pynomaly_tasks.events.ports import Partition, Record
from support.event_logs import (
    MAX_RECORD_BYTES,
    TIMEOUT_S,
    EventLog,
    KafkaLog,
    LogServer,
    Member,
    RedisLog,
    append,
    by_key,
    numbered,
    start_member_process,
    until,
)
from support.kafka import KafkaNode
from support.kafka_topics import unique_name
from support.processes import Programs
from support.waiting import wait_until

BACKENDS = ["kafka", "redis_streams"]
#: A call that must end by its timeout may be late on a busy machine, but it must end.
GRACE_S = 3.0


@pytest.fixture(params=BACKENDS)
def log(request: pytest.FixtureRequest) -> EventLog:
    """A log that other tests use, too."""
    if request.param == "kafka":
        node: KafkaNode = request.getfixturevalue("kafka")
        return KafkaLog(node.bootstrap, node)
    server: RedisServer = request.getfixturevalue("redis_server")
    return RedisLog(f"{server.url}/3")


@pytest.fixture(params=BACKENDS)
def own_log(request: pytest.FixtureRequest) -> Iterator[tuple[EventLog, LogServer]]:
    """A log for one test alone, with its server."""
    if request.param == "kafka":
        node: KafkaNode = request.getfixturevalue("own_kafka")
        yield KafkaLog(node.bootstrap, node), LogServer(node)
    else:
        server: RedisServer = request.getfixturevalue("own_redis")
        server.start()
        yield RedisLog(f"{server.url}/3"), LogServer(server)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 120))


# What is appended


def test_records_of_a_key_stay_in_the_order_of_many_calls(log: EventLog) -> None:
    async def scenario() -> None:
        topic = log.new_topic(3)
        producer = log.producer()
        await producer.start()
        for first in range(0, 300, 50):
            assert await producer.send(numbered(topic, 50, n_keys=7, first=first)) == [None] * 50
        await producer.stop()

        records = await log.reader().read(topic, since=None, until=None, max_records=1_000)

        found = by_key(records)
        assert len(found) == 7
        for key in range(7):
            assert found[f"key-{key}".encode()] == [str(n).encode() for n in range(key, 300, 7)]
        assert len({(record.key, record.partition) for record in records}) == 7
        assert len({record.partition for record in records}) > 1

    run(scenario())


def test_everything_of_a_record_comes_back_as_it_was(log: EventLog) -> None:
    async def scenario() -> None:
        topic = log.new_topic()
        headers = (("a", b"1"), ("a", b"2"), ("binary", b"\xff\x00\xfe"), ("empty", b""), ("ü", "ü".encode()))
        sent = [
            Record(topic=topic, key=b"k", value=b"\x00\xff", headers=headers),
            Record(topic=topic, key=b"k", value=None),
            Record(topic=topic, key=None, value=b""),
            Record(topic=topic, key=b"\xff\xfe", value=b"{}"),
            Record(topic=topic, key=b"", value=os.urandom(MAX_RECORD_BYTES // 2)),
        ]
        before = datetime.now(UTC) - timedelta(seconds=1)
        await append(log, *sent)

        stored = await log.reader().read(topic, since=None, until=None, max_records=10)

        assert [(r.key, r.value, tuple(r.headers)) for r in stored] == [
            (r.key, r.value, tuple(r.headers)) for r in sent
        ]
        assert [r.offset for r in stored] == sorted({r.offset for r in stored})
        assert all(before <= r.at <= datetime.now(UTC) + timedelta(seconds=1) for r in stored)

    run(scenario())


def test_what_can_never_be_appended_is_refused_and_holds_up_nothing(log: EventLog) -> None:
    async def scenario() -> None:
        topic = log.new_topic(2)
        records = numbered(topic, 60, n_keys=5)
        records[10] = Record(topic=topic, key=b"key-0", value=os.urandom(MAX_RECORD_BYTES * 2))
        records[20] = Record(topic=unique_name("missing"), key=b"key-0", value=b"20")
        producer = log.producer()
        await producer.start()

        answers = await producer.send(records)
        again = await producer.send(numbered(topic, 5, n_keys=5, first=60))
        await producer.stop()

        assert [n for n, answer in enumerate(answers) if answer is not None] == [10, 20]
        assert all(isinstance(answers[n], EventRefused) for n in (10, 20))
        assert records[20].topic in str(answers[20])
        assert again == [None] * 5
        found = by_key(await log.reader().read(topic, since=None, until=None, max_records=100))
        assert found[b"key-0"] == [str(n).encode() for n in range(0, 65, 5) if n not in (10, 20)]
        assert found[b"key-1"] == [str(n).encode() for n in range(1, 65, 5)]

    run(scenario())


def test_more_than_fits_into_one_batch_is_appended_in_order(log: EventLog) -> None:
    async def scenario() -> None:
        topic = log.new_topic()
        records = [
            Record(topic=topic, key=b"k", value=b"%d " % n + os.urandom(40_000).hex().encode())
            for n in range(60)
        ]
        await append(log, *records)

        stored = await log.reader().read(topic, since=None, until=None, max_records=100)

        assert [(record.value or b"").split()[0] for record in stored] == [b"%d" % n for n in range(60)]

    run(scenario())


# Groups


def test_each_group_is_given_everything_from_the_beginning(log: EventLog) -> None:
    async def scenario() -> None:
        topic = log.new_topic(2)
        await append(log, *numbered(topic, 20, n_keys=4))
        async with Member(log, unique_name(), [topic]) as one, Member(log, unique_name(), [topic]) as other:
            await append(log, *numbered(topic, 20, n_keys=4, first=20))
            expected = {f"key-{n}".encode(): [str(i).encode() for i in range(n, 40, 4)] for n in range(4)}
            for member in (one, other):
                await member.wait_for(40)
                assert by_key(member.records) == expected

    run(scenario())


def test_a_member_reads_all_its_topics(log: EventLog) -> None:
    async def scenario() -> None:
        topics = [log.new_topic(2), log.new_topic(1)]
        await append(log, *numbered(topics[0], 4, n_keys=4), *numbered(topics[1], 4, n_keys=4))
        async with Member(log, unique_name(), topics) as member:
            await member.wait_for(8)
            assert {record.topic for record in member.records} == set(topics)

    run(scenario())


def test_members_share_the_partitions_and_hand_over_when_one_joins_or_leaves(log: EventLog) -> None:
    async def scenario() -> None:
        topic, group = log.new_topic(4), unique_name()
        await append(log, *numbered(topic, 100, n_keys=20))
        async with Member(log, group, [topic]) as first:
            await first.wait_for(100)
            async with Member(log, group, [topic]) as second:
                await until(lambda: first.revocations, 30, "the first to give partitions up")
                n_before = 0
                while {r.partition for r in second.records} == set() or len(
                    {r.partition for r in first.records[100:]} | {r.partition for r in second.records}
                ) < 4:
                    n_before += 20
                    assert n_before < 2_000
                    await append(log, *numbered(topic, 20, n_keys=20, first=80 + n_before))
                    await asyncio.sleep(0.1)
                await until(
                    lambda: (
                        first.check()
                        and second.check()
                        and len(first.records) + len(second.records) >= 100 + n_before
                    ),
                    30,
                    lambda: f"{100 + n_before} records: {len(first.records)} + {len(second.records)} came",
                )
                assert not {r.partition for r in first.records[100:]} & {r.partition for r in second.records}
                # The first committed when it was asked, so nothing was read twice.
                assert len(first.records) + len(second.records) == 100 + n_before
                n_kept = len(first.records)
                await second.consumer.commit(second.offsets())
            left_at_s = time.monotonic()
            await append(log, *numbered(topic, 20, n_keys=20, first=5_000))
            await first.wait_for(n_kept + 20)
            assert time.monotonic() - left_at_s < log.replaced_after_s + GRACE_S
            assert sorted({(r.partition) for r in first.records[n_kept:]}) == sorted(
                {r.partition for r in first.records}
            )

    run(scenario())


def test_a_member_that_comes_back_goes_on_at_what_was_committed(log: EventLog) -> None:
    async def scenario() -> None:
        topic, group = log.new_topic(1), unique_name()
        await append(log, *numbered(topic, 10))
        async with Member(log, group, [topic]) as member:
            await member.wait_for(10)
            await member.consumer.commit({Partition(topic, 0): member.records[6].offset})
        async with Member(log, group, [topic]) as member:
            assert await member.wait_for(4) == [b"6", b"7", b"8", b"9"]
            assert await member.consumer.lag() == {Partition(topic, 0): 4}
            await member.consumer.commit(member.offsets())
            assert await member.consumer.lag() == {Partition(topic, 0): 0}

    run(scenario())


def test_paused_partitions_hand_out_nothing_and_lose_nothing(log: EventLog) -> None:
    async def scenario() -> None:
        topic = log.new_topic(2)
        await append(log, *numbered(topic, 40, n_keys=8))
        member = Member(log, unique_name(), [topic])
        await member.consumer.start(member)
        partitions = [Partition(topic, 0), Partition(topic, 1)]

        async def poll(timeout_s: float, *paused: Partition) -> set[Partition]:
            found = await member.consumer.poll(3, timeout_s, paused=paused)
            for records in found.values():
                member.records += records
            return set(found)

        async def drain(*paused: Partition) -> set[Partition]:
            seen: set[Partition] = set()
            quiet_since_s = time.monotonic()
            while time.monotonic() - quiet_since_s < 1.5:
                if found := await poll(0.2, *paused):
                    seen |= found
                    quiet_since_s = time.monotonic()
            return seen

        assert await drain(partitions[0]) == {partitions[1]}
        started_s = time.monotonic()
        assert await poll(0.5, *partitions) == set()
        assert time.monotonic() - started_s >= 0.4
        assert await drain() == {partitions[0]}
        assert by_key(member.records) == {
            f"key-{n}".encode(): [str(i).encode() for i in range(n, 40, 8)] for n in range(8)
        }
        await member.consumer.stop()

    run(scenario())


def test_a_killed_member_is_replaced_and_nothing_is_lost(log: EventLog, programs: Programs) -> None:
    topic, group = log.new_topic(2), unique_name()
    asyncio.run(append(log, *numbered(topic, 30, n_keys=6)))
    dead = start_member_process(programs, log, group, [topic])
    wait_until(lambda: len(re.findall("^read ", dead.output(), re.M)) == 30, 30, "the first 30 records")
    dead.kill()
    killed_at_s = time.monotonic()
    asyncio.run(append(log, *numbered(topic, 30, n_keys=6, first=30)))
    heir = start_member_process(programs, log, group, [topic])

    def everything() -> bool:
        values = {int(value) for value in re.findall(r"^read \d+ (\d+)", heir.output(), re.M)}
        return values >= set(range(30, 60))

    wait_until(everything, 60, "the records that came after the kill")
    assert time.monotonic() - killed_at_s < log.replaced_after_s * 2 + 10

    read = re.findall(r"^read (\d+) (\d+)", heir.output(), re.M)
    per_key = {key: [int(v) for _, v in read if int(v) % 6 == key] for key in range(6)}
    assert all(values == sorted(values) for values in per_key.values())


def test_a_member_that_was_taken_for_dead_cannot_commit(log: EventLog, programs: Programs) -> None:
    async def scenario() -> None:
        topic, group = log.new_topic(1), unique_name()
        await append(log, *numbered(topic, 10))
        stale = start_member_process(programs, log, group, [topic])
        await until(lambda: "committed 0" in stale.output(), 30, "the first commit")
        stale.pause()
        await append(log, *numbered(topic, 10, first=10))
        async with Member(log, group, [topic]) as heir:
            await until(lambda: b"19" in heir.values, 60, "the heir to be given the partition")
            await heir.consumer.commit(heir.offsets())
            stale.resume()
            # Whatever it had in hand, the group stays where the heir has put it.
            await append(log, *numbered(topic, 5, first=20))
            await until(lambda: b"24" in heir.values or "read 0 24" in stale.output(), 60, "the last record")
            lag = await log.reader().lag(group, [topic])
            assert lag[Partition(topic, 0)] <= 5

    run(scenario())


def test_a_commit_of_a_partition_that_was_given_to_another_is_refused(log: EventLog) -> None:
    async def scenario() -> None:
        topic, group = log.new_topic(2), unique_name()
        await append(log, *numbered(topic, 20, n_keys=10))
        async with Member(log, group, [topic]) as first:
            await first.wait_for(20)
            first.commits_when_revoked = False
            offsets = first.offsets()
            async with Member(log, group, [topic]) as second:
                await second.wait_for(1)
                taken = {Partition(r.topic, r.partition) for r in second.records}
                with pytest.raises(PartitionLost):
                    await first.consumer.commit({one: offsets[one] for one in taken})
                assert sum((await log.reader().lag(group, [topic])).values()) == 20

    run(scenario())


# Reading beside the groups


def test_a_reader_replays_by_offset_and_by_time(log: EventLog) -> None:
    async def scenario() -> None:
        topic, group = log.new_topic(2), unique_name()
        reader = log.reader()
        await append(log, *numbered(topic, 20, n_keys=4))
        async with Member(log, group, [topic]) as member:
            await member.wait_for(20)
            await member.consumer.commit(member.offsets())
        stored = await reader.read(topic, since=None, until=None, max_records=100)
        await asyncio.sleep(0.05)
        between = datetime.now(UTC)
        await asyncio.sleep(0.05)
        await append(log, *numbered(topic, 20, n_keys=4, first=20))

        after = await reader.read(topic, since=between, until=None, max_records=100)
        before = await reader.read(topic, since=None, until=between, max_records=100)
        first = await reader.read(topic, since=None, until=None, max_records=7)
        none = await reader.read(
            topic, since=datetime.now(UTC) + timedelta(hours=1), until=None, max_records=9
        )

        assert {record.value for record in after} == {b"%d" % n for n in range(20, 40)}
        assert {record.value for record in before} == {b"%d" % n for n in range(20)}
        assert len(first) == 7
        assert by_key(first).keys() <= by_key(before).keys()
        assert list(none) == []
        number = stored[0].partition
        offset = [record.offset for record in stored if record.partition == number][2]
        later = await reader.read(topic, since=offset, until=None, max_records=100)
        assert min(record.offset for record in later if record.partition == number) == offset
        lag = await reader.lag(group, [topic])
        assert sum(lag.values()) == 20
        assert set(lag) == {Partition(topic, 0), Partition(topic, 1)}
        assert sum((await reader.lag(unique_name(), [topic])).values()) == 40

    run(scenario())


def test_a_reader_says_that_there_is_no_such_topic(log: EventLog) -> None:
    async def scenario() -> None:
        with pytest.raises(NotFound, match="no-such-topic"):
            await log.reader().read("no-such-topic", since=None, until=None, max_records=1)

    run(scenario())


# A log that is away


async def _ends_unavailable(call: Callable[[], Coroutine[Any, Any, Any]], within_s: float) -> None:
    started_s = time.monotonic()
    with pytest.raises(EventLogUnavailable):
        await call()
    assert time.monotonic() - started_s < within_s + GRACE_S


@pytest.mark.parametrize("fault", ["killed", "paused"])
def test_every_call_ends_while_the_log_is_away_and_goes_on_afterwards(
    own_log: tuple[EventLog, LogServer], fault: str
) -> None:
    log, server = own_log

    async def scenario() -> None:
        topic, group = log.new_topic(1), unique_name()
        producer, unstarted = log.producer(), log.producer()
        await producer.start()
        assert await producer.send(numbered(topic, 5)) == [None] * 5
        async with Member(log, group, [topic]) as member:
            await member.wait_for(5)
            (server.kill if fault == "killed" else server.pause)()

            started_s = time.monotonic()
            answers = await producer.send(numbered(topic, 5, first=5))
            assert time.monotonic() - started_s < TIMEOUT_S + GRACE_S
            assert all(isinstance(answer, EventLogUnavailable) for answer in answers)
            await _ends_unavailable(unstarted.start, TIMEOUT_S)
            await _ends_unavailable(
                lambda: log.reader().read(topic, since=None, until=None, max_records=1), TIMEOUT_S
            )
            await until(lambda: member.n_outages > 0, 30, "the member to notice")
            with pytest.raises((EventLogUnavailable, PartitionLost)):
                await member.consumer.commit(member.offsets())

            await asyncio.to_thread(server.restart if fault == "killed" else server.resume)
            n_tries = 0
            while any(answers := await producer.send(numbered(topic, 5, first=5))):
                n_tries += 1
                assert n_tries < 20, answers
            await until(lambda: b"9" in member.values, 60, "the member to go on")
            firsts = [value for n, value in enumerate(member.values) if value not in member.values[:n]]
            assert firsts == [b"%d" % n for n in range(10)]
        await producer.stop()
        await unstarted.stop()

    run(scenario())


def test_stop_ends_while_the_log_is_away(own_log: tuple[EventLog, LogServer]) -> None:
    log, server = own_log

    async def scenario() -> None:
        topic = log.new_topic(1)
        producer, consumer = log.producer(), Member(log, unique_name(), [topic])
        await producer.start()
        await consumer.consumer.start(consumer)
        await consumer.consumer.poll(1, 0.5)
        server.pause()
        started_s = time.monotonic()
        await producer.stop()
        await consumer.consumer.stop()
        assert time.monotonic() - started_s < 2 * TIMEOUT_S + GRACE_S

    run(scenario())
    server.resume()


def test_batches_sent_again_over_restarts_keep_the_order_of_what_comes_first(
    own_log: tuple[EventLog, LogServer], tmp_path: Path
) -> None:
    log, server = own_log

    async def scenario() -> None:
        topic = log.new_topic(2)
        producer = log.producer()
        await producer.start()
        is_over = asyncio.Event()

        async def kill_twice() -> None:
            for _ in range(2):
                await asyncio.sleep(0.4)
                server.kill()
                await asyncio.sleep(0.4)
                await asyncio.to_thread(server.restart)
            is_over.set()

        killing = asyncio.create_task(kill_twice())
        first, n_unknown = 0, 0
        while not is_over.is_set() or first < 400:
            batch = numbered(topic, 20, n_keys=4, first=first)
            answers = await producer.send(batch)
            if any(answers):
                n_unknown += 1
                assert not any(isinstance(answer, EventRefused) for answer in answers), answers
                await asyncio.sleep(0.02)
            else:
                first += 20
        await killing
        await producer.stop()

        assert n_unknown, "no call met the outage"
        stored = await log.reader().read(topic, since=None, until=None, max_records=100_000)
        for key, values in by_key(stored).items():
            firsts = list(dict.fromkeys(int(value or b"") for value in values))
            assert firsts == sorted(firsts), key
        assert {int(record.value or b"") for record in stored} == set(range(first))

    run(scenario())
