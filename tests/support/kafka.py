"""Apache Kafka for tests: one node or three, each its own process on free loopback ports.

Each wait has an end; a node that cannot be started fails the test and shows its log.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiokafka.errors import KafkaError

from pynomaly_tasks.embedded.child import Child
from pynomaly_tasks.embedded.ports import find_free_ports
from support.kafka_topics import KafkaTopics, admin_client, run_bounded
from support.waiting import wait_until

SASL_USER = "tests"
SASL_PASSWORD = "not-a-secret"

_CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qg"
_START_TIMEOUT_S = 60.0
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
        self.port, self.sasl_port, self.controller_port = find_free_ports(3)

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
        try:
            wait_until(
                lambda: not self.child.is_running() or (self._has_its_ports() and self.is_member()),
                timeout_s,
                f"Kafka node {self.node_id} to serve",
            )
        except AssertionError as error:
            error.add_note(f"its log ends:\n{self.child.log_tail(60)}")
            raise
        return self.child.is_running()

    def _has_its_ports(self) -> bool:
        """Whether it listens on all three: it may answer on one, and end a moment later for want of another."""
        try:
            connections = psutil.Process(self.child.pid).net_connections("tcp")
        except psutil.NoSuchProcess:
            return False
        listening = {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}
        return {self.port, self.sasl_port, self.controller_port} <= listening

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
            if self._serves():
                return self
            output = self._output_of_the_dead()
            for node in self.nodes:
                node.kill()
            if "Address already in use" not in output:
                break
        pytest.fail(f"The three nodes of Kafka did not start:\n{output[-6000:]}")

    def restart(self) -> None:
        """Kill what runs of the three, start all again with their data, and wait until they serve.

        Two that are gone must come back so: one alone has no majority, and cannot serve.
        """
        for node in self.nodes:
            node.kill()
        if not self._serves():
            pytest.fail(
                f"The three nodes of Kafka did not start again:\n{self._output_of_the_dead()[-6000:]}"
            )

    def _serves(self) -> bool:
        for node in self.nodes:
            node.spawn()
        if not all(node.serves() for node in self.nodes):
            return False
        wait_until(self._is_whole, _START_TIMEOUT_S, "the three nodes to know each other")
        return True

    def _output_of_the_dead(self) -> str:
        return "\n".join(node.child.output() for node in self.nodes if not node.child.is_running())

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
