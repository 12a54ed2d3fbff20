"""Apache Kafka for tests: one node or three, each its own process on free loopback ports, and what is in a topic.

Everything here may be called from sync code and, at the price of blocking its loop, from async code.
Each wait has an end; a node that cannot be started fails the test and shows its log.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import signal
import socket
import tempfile
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, for_code

from pynomaly_tasks.embedded.child import Child
from pynomaly_tasks.embedded.ports import find_free_port
from support.waiting import wait_until

T = TypeVar("T")

SASL_USER = "tests"
SASL_PASSWORD = "not-a-secret"

_CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qg"
_START_TIMEOUT_S = 60.0
_CALL_TIMEOUT_S = 30.0
_PROBE_TIMEOUT_S = 3.0
_PORT_TRIES = 5

#: What a node is told unless its test says otherwise: small, quick, and nothing made without being asked for.
PROPERTIES: Mapping[str, object] = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN",
    "listener.name.sasl.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule "
    f'required user_{SASL_USER}="{SASL_PASSWORD}";',
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": 0,
    # How long a killed node is still counted in, and may not come back: nine seconds by default.
    "broker.session.timeout.ms": 2_000,
    "broker.heartbeat.interval.ms": 250,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.num.partitions": 4,
    "share.coordinator.state.topic.num.partitions": 1,
    "num.network.threads": 2,
    "num.io.threads": 4,
    "background.threads": 2,
    "log.cleaner.dedupe.buffer.size": 1_048_577,
    "log.index.size.max.bytes": 1_048_576,
}


def _home() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    lock = (Path(__file__).parents[2] / "scripts" / "kafka_jars.lock").read_text()
    home = cache / "pynomaly" / f"kafka-{lock.split()[3]}"
    if not (home / "installed").exists():
        pytest.fail(f"Apache Kafka is not installed in {home}: run scripts/install_kafka")
    return home


def unique_name(stem: str = "test") -> str:
    """A name for a topic or a group that no other test has."""
    return f"{stem}-{uuid.uuid4().hex[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaRecord:
    """One record as a topic holds it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp_ms: int

    def header(self, name: str) -> bytes:
        """The only value of a header; raises where it has none or several."""
        (value,) = (value for each, value in self.headers if each == name)
        return value


def run_bounded(coroutine: Coroutine[Any, Any, T], timeout_s: float, what: str) -> T:
    """Run a coroutine on a loop of its own, also where this thread has one. Fails the test in the end."""
    with ThreadPoolExecutor(1) as thread:
        try:
            return thread.submit(asyncio.run, asyncio.wait_for(coroutine, timeout_s)).result()
        except TimeoutError:
            raise AssertionError(f"waited {timeout_s:g} s for {what}") from None


class KafkaTopics:
    """What a test asks of a running Kafka, be it one node or three."""

    n_replicas = 1

    @property
    def bootstrap(self) -> str:
        """Addresses for `bootstrap_servers`, separated by commas."""
        raise NotImplementedError

    def unique_name(self, stem: str = "test") -> str:
        """A name for a topic or a group that no other test has."""
        return unique_name(stem)

    def create_topic(
        self, name: str, n_partitions: int = 1, *, config: Mapping[str, object] | None = None
    ) -> str:
        """Create a topic with every replica that there can be. Returns its name."""
        text = {key: str(value) for key, value in (config or {}).items()}
        topic = NewTopic(name, n_partitions, self.n_replicas, topic_configs=text)
        self._admin(lambda admin: _create(admin, topic), f"topic {name} to be created")
        wait_until(lambda: name in self.topics(), _CALL_TIMEOUT_S, f"topic {name} to be known")
        self.wait_led(name)
        return name

    def new_topic(
        self, n_partitions: int = 1, *, stem: str = "test", config: Mapping[str, object] | None = None
    ) -> str:
        """Create a topic of a name that no other test has."""
        return self.create_topic(unique_name(stem), n_partitions, config=config)

    def delete_topic(self, name: str) -> None:
        """Delete a topic with what is in it."""
        self._admin(lambda admin: _delete(admin, name), f"topic {name} to be deleted")

    def topics(self) -> dict[str, dict[str, Any]]:
        """Each topic's metadata by name, as aiokafka's `describe_topics` gives it."""
        found = self._admin(lambda admin: admin.describe_topics(), "a list of topics")
        return {topic["topic"]: topic for topic in found}

    def wait_led(self, name: str, timeout_s: float = _CALL_TIMEOUT_S) -> None:
        """Wait until each partition of a topic has a leader that still runs."""
        wait_until(lambda: self._is_led(name), timeout_s, f"leaders of {name}")

    def _is_led(self, name: str) -> bool:
        partitions = self.topics()[name]["partitions"]
        return all(one["leader"] in self.running_ids() for one in partitions)

    def running_ids(self) -> set[int]:
        """Ids of the nodes whose process runs."""
        raise NotImplementedError

    def read_topic(
        self, name: str, *, isolation_level: str = "read_committed", timeout_s: float = _CALL_TIMEOUT_S
    ) -> list[KafkaRecord]:
        """Everything in a topic now, partition by partition, in order of offset."""
        partitions = [TopicPartition(name, one["partition"]) for one in self.topics()[name]["partitions"]]
        return run_bounded(
            _read(self.bootstrap, sorted(partitions), isolation_level), timeout_s, f"the end of {name}"
        )

    def _admin(
        self,
        use: Callable[[AIOKafkaAdminClient], Coroutine[Any, Any, T]],
        what: str,
        timeout_s: float = _CALL_TIMEOUT_S,
    ) -> T:
        async def call() -> T:
            while True:
                try:
                    async with admin_client(self.bootstrap, request_timeout_ms=5_000) as admin:
                        return await use(admin)
                except KafkaError as error:
                    # A client asks any node that the others still count in, also one that is gone.
                    if not error.retriable:
                        raise
                await asyncio.sleep(0.1)

        return run_bounded(call(), timeout_s, what)


@asynccontextmanager
async def admin_client(bootstrap: str, **options: Any) -> Any:
    """An admin client, started and closed."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, **options)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def _create(admin: AIOKafkaAdminClient, topic: NewTopic) -> None:
    answer = await admin.create_topics([topic])
    for _, code, message in answer.topic_errors:
        if code:
            raise for_code(code)(message)


async def _delete(admin: AIOKafkaAdminClient, name: str) -> None:
    answer = await admin.delete_topics([name])
    for _, code in answer.topic_error_codes:
        if code:
            raise for_code(code)(name)


async def _read(bootstrap: str, partitions: list[TopicPartition], isolation_level: str) -> list[KafkaRecord]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level=isolation_level, enable_auto_commit=False,
        auto_offset_reset="none", fetch_max_wait_ms=100, request_timeout_ms=10_000,
    )  # fmt: skip
    records = []
    try:
        await consumer.start()
        consumer.assign(partitions)
        for partition, offset in (await consumer.beginning_offsets(partitions)).items():
            consumer.seek(partition, offset)
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(one) < ends[one] for one in partitions]):
            for batch in (await consumer.getmany(timeout_ms=100)).values():
                records += [_record(one) for one in batch]
    finally:
        await consumer.stop()
    return sorted(records, key=lambda one: (one.partition, one.offset))


def _record(record: Any) -> KafkaRecord:
    return KafkaRecord(
        topic=record.topic, partition=record.partition, offset=record.offset, key=record.key,
        value=record.value, headers=tuple(record.headers), timestamp_ms=record.timestamp,
    )  # fmt: skip


class KafkaNode(KafkaTopics):
    """One Kafka, broker and controller in one process; on disk until `close`."""

    def __init__(
        self,
        directory: Path | None = None,
        *,
        properties: Mapping[str, object] | None = None,
        jvm_options: Sequence[str] = (),
        node_id: int = 1,
    ) -> None:
        """Nothing runs yet. ``properties`` and ``jvm_options`` go over the defaults."""
        self.directory = directory or Path(tempfile.mkdtemp(prefix="pynomaly-kafka-"))
        self.node_id = node_id
        self.port = self.sasl_port = self.controller_port = 0
        self.log = self.directory / "kafka.log"
        self._properties = dict(properties or {})
        self._jvm_options = list(jvm_options)
        self._child: Child | None = None

    @property
    def bootstrap(self) -> str:
        """Its listener that asks for no password."""
        return f"127.0.0.1:{self.port}"

    @property
    def sasl_bootstrap(self) -> str:
        """Its listener that wants `SASL_USER` and `SASL_PASSWORD`."""
        return f"127.0.0.1:{self.sasl_port}"

    @property
    def sasl_options(self) -> dict[str, str]:
        """Arguments for aiokafka's clients, to connect with the right password."""
        return {
            "bootstrap_servers": self.sasl_bootstrap, "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN", "sasl_plain_username": SASL_USER, "sasl_plain_password": SASL_PASSWORD,
        }  # fmt: skip

    def running_ids(self) -> set[int]:
        """Its own id, while its process runs."""
        return {self.node_id} if self._child is not None and self._child.is_running() else set()

    def log_size_bytes(self, topic: str) -> int:
        """What a topic takes on this node's disk, without its indexes."""
        logs = (self.directory / "data").glob(f"{topic}-[0-9]*/*.log")
        return sum(log.stat().st_size for log in logs)

    @property
    def child(self) -> Child:
        """Its process; fails the test where it was never started."""
        if self._child is None:
            pytest.fail(f"Kafka node {self.node_id} was not started")
        return self._child

    def start(self) -> KafkaNode:
        """Start it on free ports with a new data directory, and wait until it serves."""
        for _ in range(_PORT_TRIES):
            self.choose_ports()
            self.format({self.node_id: self.controller_port})
            self.spawn()
            if self.serves():
                return self
            if "Address already in use" not in self.child.output():
                break
        pytest.fail(f"Kafka did not start; its log ends:\n{self.child.log_tail(60)}")

    def choose_ports(self) -> None:
        """Take three free ports; done by `start`."""
        self.port, self.sasl_port, self.controller_port = (find_free_port() for _ in range(3))

    def format(self, voters: Mapping[int, int]) -> None:
        """Write its settings and, as Kafka's storage tool does, its data directory; done by `start`.

        voters: port of each controller by node id.
        """
        data = self.directory / "data"
        shutil.rmtree(data, ignore_errors=True)
        metadata = data / "__cluster_metadata-0"
        metadata.mkdir(parents=True)
        checkpoint = (_home() / "bootstrap.checkpoint").read_bytes()
        (metadata / "00000000000000000000-0000000000.checkpoint").write_bytes(checkpoint)
        directory_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        identity = {"version": 1, "cluster.id": _CLUSTER_ID, "node.id": self.node_id,
                    "directory.id": directory_id}  # fmt: skip
        (data / "meta.properties").write_text(_as_properties(identity))
        replicas = len(voters)
        quorum = ",".join(f"{node}@127.0.0.1:{port}" for node, port in voters.items())
        open_to = f"PLAINTEXT://127.0.0.1:{self.port},SASL://127.0.0.1:{self.sasl_port}"
        settings = {
            **PROPERTIES, "node.id": self.node_id, "controller.quorum.voters": quorum, "log.dirs": data,
            "listeners": f"{open_to},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": open_to,
            "default.replication.factor": replicas, "min.insync.replicas": (replicas + 1) // 2,
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": (replicas + 1) // 2,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": (replicas + 1) // 2,
            **self._properties,
        }  # fmt: skip
        (self.directory / "server.properties").write_text(_as_properties(settings))

    def spawn(self) -> None:
        """Start the process on what `format` wrote, and wait for nothing."""
        home = _home()
        java = (home / "java").resolve()
        self._child = Child(
            [java, f"@{home / 'jvm.args'}", *self._jvm_options, "kafka.Kafka",
             self.directory / "server.properties"], log=self.log, cwd=self.directory,
        )  # fmt: skip

    def serves(self, timeout_s: float = _START_TIMEOUT_S) -> bool:
        """Wait until it serves; False when its process has ended instead."""
        wait_until(lambda: not self.child.is_running() or self.is_member(), timeout_s,
                   f"Kafka node {self.node_id} to serve; see {self.log}")  # fmt: skip
        return self.child.is_running()

    def is_member(self) -> bool:
        """Whether it answers now, knows itself as a broker, and leads what only it holds."""

        async def ask() -> bool:
            async with admin_client(self.bootstrap, request_timeout_ms=int(_PROBE_TIMEOUT_S * 1000)) as admin:
                cluster = await admin.describe_cluster()
                topics = await admin.describe_topics()
            known = {broker["node_id"] for broker in cluster["brokers"]}
            own = [
                one for topic in topics for one in topic["partitions"] if one["replicas"] == [self.node_id]
            ]
            return self.node_id in known and all(one["leader"] == self.node_id for one in own)

        try:
            # Asked first, for aiokafka logs each refused connection as an error.
            socket.create_connection(("127.0.0.1", self.port), _PROBE_TIMEOUT_S).close()
            return run_bounded(ask(), _PROBE_TIMEOUT_S, "an answer")
        except (KafkaError, OSError, AssertionError):
            return False

    def stop(self) -> int:
        """SIGTERM, as an operator stops it. Returns its exit code: 143, unless it had to be killed."""
        return self.child.stop(30.0)

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self.child.kill()

    def pause(self) -> None:
        """SIGSTOP: alive, holding its connections, doing nothing."""
        self.child.signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.child.signal_group(signal.SIGCONT)

    def restart(self) -> None:
        """Kill it if it runs, start it again on its ports with its data, and wait until it serves."""
        self.kill()
        self.spawn()
        if not self.serves():
            pytest.fail(f"Kafka did not start again; its log ends:\n{self.child.log_tail(60)}")

    def close(self) -> None:
        """Kill it and remove its files."""
        if self._child is not None:
            self._child.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def _as_properties(values: Mapping[str, object]) -> str:
    return "".join(f"{name}={value}\n" for name, value in values.items())


class KafkaCluster(KafkaTopics):
    """Three nodes, each broker and controller; topics have three replicas, two of which must have a write."""

    n_replicas = 3

    def __init__(self, directory: Path | None = None, **options: Any) -> None:
        """Nothing runs yet. Takes the options of `KafkaNode`."""
        self.directory = directory or Path(tempfile.mkdtemp(prefix="pynomaly-kafka-"))
        self.nodes = [
            KafkaNode(self.directory / str(node_id), node_id=node_id, **options) for node_id in (1, 2, 3)
        ]

    @property
    def bootstrap(self) -> str:
        """The listeners without a password of all three."""
        return ",".join(node.bootstrap for node in self.nodes)

    def node(self, node_id: int) -> KafkaNode:
        """The node with that id: 1, 2 or 3."""
        return self.nodes[node_id - 1]

    def start(self) -> KafkaCluster:
        """Start all three at once on free ports, and wait until each serves and knows the others."""
        for _ in range(_PORT_TRIES):
            for node in self.nodes:
                node.choose_ports()
            voters = {node.node_id: node.controller_port for node in self.nodes}
            for node in self.nodes:
                node.format(voters)
                node.spawn()
            if all(node.serves() for node in self.nodes):
                wait_until(self._is_whole, _START_TIMEOUT_S, "the three nodes to know each other")
                return self
            output = "\n".join(node.child.output() for node in self.nodes if not node.child.is_running())
            for node in self.nodes:
                node.kill()
            if "Address already in use" not in output:
                break
        pytest.fail(f"The three nodes of Kafka did not start:\n{output[-6000:]}")

    def _is_whole(self) -> bool:
        cluster = self._admin(lambda admin: admin.describe_cluster(), "a list of brokers")
        return len(cluster["brokers"]) == len(self.nodes)

    def running_ids(self) -> set[int]:
        """Ids of the nodes whose process runs."""
        return {number for node in self.nodes for number in node.running_ids()}

    def leader(self, topic: str, partition: int = 0) -> KafkaNode:
        """The node that leads a partition now; raises KeyError where none does."""
        leaders = {one["partition"]: one["leader"] for one in self.topics()[topic]["partitions"]}
        if leaders[partition] < 0:
            raise KeyError(f"nobody leads {topic}-{partition}")
        return self.node(leaders[partition])

    def wait_in_sync(self, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Wait until every partition is on all its replicas: before that, another loss may stop writes."""

        def behind() -> list[str]:
            return [
                f"{name}-{one['partition']}"
                for name, topic in self.topics().items()
                for one in topic["partitions"]
                if set(one["isr"]) != set(one["replicas"])
            ]

        wait_until(lambda: not behind(), timeout_s, "all replicas to be in sync")

    def close(self) -> None:
        """Kill what runs and remove the files."""
        for node in self.nodes:
            node.close()
        shutil.rmtree(self.directory, ignore_errors=True)
