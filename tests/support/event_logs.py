"""Logs of events for tests: one face over every backend, and members of groups, here or as a process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import EventLogUnavailable, PynomalyError
from pynomaly_tasks.events.kafka.connection import KafkaConnection
from pynomaly_tasks.events.kafka.consumer import KafkaConsumer
from pynomaly_tasks.events.kafka.producer import KafkaProducer
from pynomaly_tasks.events.kafka.reader import KafkaReader
from pynomaly_tasks.events.ports import Consumer, Partition, Producer, Reader, Record, StoredRecord
from pynomaly_tasks.events.redis_streams.consumer import RedisConsumer
from pynomaly_tasks.events.redis_streams.producer import RedisProducer
from pynomaly_tasks.events.redis_streams.reader import RedisReader
from support.kafka_topics import KafkaTopics, unique_name
from support.processes import Program, Programs
from support.waiting import wait_until

MAX_RECORD_BYTES = 1_000_000
TIMEOUT_S = 3.0


class EventLog(Protocol):
    """One backend: what is common to all, and what a test must know of each."""

    replaced_after_s: float  #: a member that is dead

    def new_topic(self, n_partitions: int = 1) -> str:
        """A topic of a name that no other test has."""

    def producer(self) -> Producer:
        """Not started; its timeout is `TIMEOUT_S`."""

    def consumer(self, group: str, topics: Collection[str]) -> Consumer:
        """Not started; its timeout is `TIMEOUT_S`."""

    def reader(self) -> Reader:
        """Its timeout is `TIMEOUT_S`."""

    def address(self) -> dict[str, Any]:
        """What `open_log` makes the same log of, in another process."""


class KafkaLog:
    """Apache Kafka."""

    replaced_after_s = 6.0  # the shortest that Kafka allows

    def __init__(self, bootstrap: str, node: KafkaTopics | None = None) -> None:
        self.connection = KafkaConnection(bootstrap_servers=bootstrap)
        self.node = node

    def new_topic(self, n_partitions: int = 1) -> str:
        assert self.node is not None
        return self.node.new_topic(n_partitions, config={"message.timestamp.type": "LogAppendTime"})

    def producer(self) -> KafkaProducer:
        return KafkaProducer(self.connection, timeout_s=TIMEOUT_S)

    def consumer(self, group: str, topics: Collection[str]) -> KafkaConsumer:
        return KafkaConsumer(
            self.connection, group=group, topics=topics, timeout_s=TIMEOUT_S,
            session_timeout_s=self.replaced_after_s,
        )  # fmt: skip

    def reader(self) -> KafkaReader:
        return KafkaReader(self.connection, timeout_s=TIMEOUT_S)

    def address(self) -> dict[str, Any]:
        return {"kafka": self.connection.bootstrap_servers}


class RedisLog:
    """Redis Streams."""

    replaced_after_s = 2.0

    def __init__(self, url: str, topics: Mapping[str, int] | None = None) -> None:
        self.url = url
        self.topics = dict(topics or {})

    def new_topic(self, n_partitions: int = 1) -> str:
        topic = unique_name()
        self.topics[topic] = n_partitions
        return topic

    def producer(self) -> RedisProducer:
        return RedisProducer(
            self.url, self.topics, keep_s=3_600.0, max_record_bytes=MAX_RECORD_BYTES, timeout_s=TIMEOUT_S
        )

    def consumer(self, group: str, topics: Collection[str]) -> RedisConsumer:
        return RedisConsumer(
            self.url, group, {topic: self.topics[topic] for topic in topics},
            lease_s=self.replaced_after_s, timeout_s=TIMEOUT_S,
        )  # fmt: skip

    def reader(self) -> RedisReader:
        return RedisReader(self.url, self.topics, timeout_s=TIMEOUT_S)

    def address(self) -> dict[str, Any]:
        return {"redis": self.url, "topics": self.topics}


def open_log(address: Mapping[str, Any]) -> EventLog:
    """The log of an address."""
    if "kafka" in address:
        return KafkaLog(address["kafka"])
    return RedisLog(address["redis"], address["topics"])


class LogServer:
    """The server of a log that a test has for itself."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def kill(self) -> None:
        self._server.kill()

    def restart(self) -> None:
        """Start it again on the same port with its data."""
        if isinstance(self._server, RedisServer):
            self._server.start()
            with self._server.client() as client:
                wait_until(lambda: not client.info("persistence")["loading"], 20, "Redis to have its data")
        else:
            self._server.restart()

    def pause(self) -> None:
        if isinstance(self._server, RedisServer):
            self._server.signal(signal.SIGSTOP)
        else:
            self._server.pause()

    def resume(self) -> None:
        if isinstance(self._server, RedisServer):
            self._server.signal(signal.SIGCONT)
        else:
            self._server.resume()


class Member:
    """A member of a group that reads all the time, and remembers what it was told and given.

    It ends nothing by itself: what it commits, the test says. ``on_revoked`` is what it does first.
    """

    def __init__(self, log: EventLog, group: str, topics: Collection[str]) -> None:
        self.consumer = log.consumer(group, topics)
        self.records: list[StoredRecord] = []
        self.revocations: list[set[Partition]] = []
        self.commits_when_revoked = True
        self.n_outages = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Member:
        await self.consumer.start(self)
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    async def leave(self) -> None:
        """End as a process does that is told to."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.consumer.stop()

    async def revoked(self, partitions: Collection[Partition]) -> None:
        self.revocations.append(set(partitions))
        if self.commits_when_revoked:
            await self.consumer.commit(self.offsets(partitions))

    def offsets(self, partitions: Collection[Partition] | None = None) -> dict[Partition, int]:
        """The offset after the last record that it was given, of each partition that it was given any of."""
        found: dict[Partition, int] = {}
        for record in self.records:
            found[Partition(record.topic, record.partition)] = record.offset + 1
        return {one: offset for one, offset in found.items() if partitions is None or one in partitions}

    @property
    def values(self) -> list[bytes | None]:
        return [record.value for record in self.records]

    def check(self) -> bool:
        """Raise what ended its reading."""
        if self._task is not None and self._task.done():
            self._task.result()
        return True

    async def wait_for(self, n: int, timeout_s: float = 30.0) -> list[bytes | None]:
        """The values of its records, as soon as it was given so many."""
        await until(
            lambda: self.check() and len(self.records) >= n,
            timeout_s,
            lambda: f"{n} records, of which {len(self.records)} came",
        )
        return self.values

    async def _read(self) -> None:
        while True:
            try:
                found = await self.consumer.poll(100, 0.2)
            except EventLogUnavailable:
                self.n_outages += 1
                await asyncio.sleep(0.1)
                continue
            for records in found.values():
                self.records += records


async def until(seen: Callable[[], object], timeout_s: float, what: str | Callable[[], str]) -> None:
    """Wait for a condition; fails the test after the time."""
    end = asyncio.get_running_loop().time() + timeout_s
    while not seen():
        said = what if isinstance(what, str) else what()
        assert asyncio.get_running_loop().time() < end, f"waited {timeout_s:g} s for {said}"
        await asyncio.sleep(0.02)


def by_key(records: Sequence[StoredRecord]) -> dict[bytes | None, list[bytes | None]]:
    """The values of each key, in the order in which they were read."""
    found: defaultdict[bytes | None, list[bytes | None]] = defaultdict(list)
    for record in records:
        found[record.key].append(record.value)
    return dict(found)


async def append(log: EventLog, *records: Record) -> None:
    """Append records that the log must take."""
    producer = log.producer()
    await producer.start()
    try:
        assert await producer.send(records) == [None] * len(records)
    finally:
        await producer.stop()


def numbered(topic: str, n: int, *, n_keys: int = 1, first: int = 0) -> list[Record]:
    """Records with the values first, first + 1, ..., whose keys take turns."""
    return [
        Record(topic=topic, key=f"key-{number % n_keys}".encode(), value=str(number).encode())
        for number in range(first, first + n)
    ]


def start_member_process(programs: Programs, log: EventLog, group: str, topics: Sequence[str]) -> Program:
    """A member as a process of its own: says what it reads, commits at once; on SIGCONT, see `main`."""
    arguments = json.dumps({"address": log.address(), "group": group, "topics": list(topics)})
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    return programs.python(__file__, arguments, name="member", env=environment, ready="^joined")


class _Told:
    async def revoked(self, partitions: Collection[Partition]) -> None:
        """It commits as it reads."""


async def main(address: Mapping[str, Any], group: str, topics: Sequence[str]) -> None:
    """Read and commit, saying each value; say also what refuses the commit."""
    consumer = open_log(address).consumer(group, topics)
    await consumer.start(_Told())
    print("joined", flush=True)
    while True:
        try:
            found = await consumer.poll(5, 0.1)
        except EventLogUnavailable as error:
            print("away", error, flush=True)
            await asyncio.sleep(0.1)
            continue
        for partition, records in found.items():
            for record in records:
                print("read", partition.number, (record.value or b"").decode(), flush=True)
            try:
                await consumer.commit({partition: records[-1].offset + 1})
            except PynomalyError as error:
                print(type(error).__name__, flush=True)
            else:
                print("committed", partition.number, records[-1].offset + 1, flush=True)


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
