"""Fixtures that start real servers and programs, each on free loopback ports and in its own directory."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.settings import Settings, current_settings, load_settings
from support.event_hubs import EventHubsListener
from support.kafka import KafkaCluster, KafkaNode
from support.mosquitto import Mosquitto
from support.processes import Programs
from support.pubsub_emulator import PubSubEmulator
from support.rabbitmq import RabbitServer
from support.servers import PostgresCluster
from support.sqs import SqsServer
from support.tcp_proxy import TcpProxy

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine under load is slow for longer than any example is: time says nothing about the code here.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

_REPORT = pytest.StashKey[Programs]()


class Server(Protocol):
    def start(self) -> Self: ...

    def close(self) -> None: ...


S = TypeVar("S", bound=Server)


@contextmanager
def started(server: S) -> Iterator[S]:
    """A server that runs while the block does; what is left of one that did not start is removed too."""
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Neither the environment nor a file where the test runs sets anything."""
    for name in os.environ:
        if name.upper().startswith("PYNOMALY_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield
    current_settings.cache_clear()


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, no_settings: None) -> Callable[..., Settings]:
    """Loads the settings from these variables alone; names without the prefix."""

    def load(**variables: str) -> Settings:
        for name, value in variables.items():
            monkeypatch.setenv(f"PYNOMALY_{name}", value)
        return load_settings()

    return load


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for the tests of one module: they must not kill it, and not trip over each other's keys."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for one test alone, to kill, pause, fill or restart."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Starts Redis servers for one test; takes the options of `RedisServer`."""
    started: list[RedisServer] = []

    def start(**options: Any) -> RedisServer:
        server = RedisServer(tmp_path / f"redis-{len(started)}", **options)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def sqs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqsServer]:
    """moto's SQS for all tests of this process."""
    server = SqsServer(tmp_path_factory.mktemp("sqs") / "moto.log")
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def mosquitto() -> Iterator[Mosquitto]:
    """One MQTT broker for all tests of this process: they must not stop it."""
    with started(Mosquitto()) as server:
        yield server


@pytest.fixture
def start_mosquitto() -> Iterator[Callable[..., Mosquitto]]:
    """Starts MQTT brokers for one test, to restart or to set up otherwise; takes the options of `Mosquitto`."""
    started: list[Mosquitto] = []

    def start(**options: Any) -> Mosquitto:
        started.append(Mosquitto(**options))
        return started[-1].start()

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="session")
def pubsub_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PubSubEmulator]:
    """One emulator of Pub/Sub for all tests of this process."""
    with started(PubSubEmulator(tmp_path_factory.mktemp("pubsub"))) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[PostgresCluster]:
    """One PostgreSQL for all tests of this process."""
    with started(PostgresCluster()) as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[PostgresCluster]:
    """A PostgreSQL for one test alone, to kill."""
    with started(PostgresCluster()) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_cluster: PostgresCluster) -> Iterator[str]:
    """SQLAlchemy URL of an empty PostgreSQL database for one test."""
    url = postgres_cluster.new_database()
    yield url
    postgres_cluster.drop_database(url)


@pytest.fixture(scope="module")
def module_postgres_url(postgres_cluster: PostgresCluster) -> Iterator[str]:
    """SQLAlchemy URL of a PostgreSQL database, empty at first, for the tests of one module."""
    url = postgres_cluster.new_database()
    yield url
    postgres_cluster.drop_database(url)


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaNode]:
    """One Apache Kafka for all tests of this process: `new_topic` and `unique_name` keep them apart."""
    with started(KafkaNode()) as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """One RabbitMQ for all tests of this process: they must not kill it."""
    with started(RabbitServer(tmp_path_factory.mktemp("rabbitmq"))) as server:
        yield server


@pytest.fixture
def own_rabbitmq(tmp_path: Path) -> Iterator[RabbitServer]:
    """A RabbitMQ for one test alone, to kill, pause or restart."""
    with started(RabbitServer(tmp_path / "rabbitmq")) as server:
        yield server


@pytest.fixture(scope="session")
def event_hubs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventHubsListener]:
    """What stands for Azure Event Hubs, for all tests of this process."""
    with started(EventHubsListener(tmp_path_factory.mktemp("event_hubs"))) as server:
        yield server


@pytest.fixture(scope="module")
def module_kafka() -> Iterator[KafkaNode]:
    """A Kafka for the tests of one module, which use the platform's own topics."""
    with started(KafkaNode()) as server:
        yield server


@pytest.fixture
def own_kafka() -> Iterator[KafkaNode]:
    """An Apache Kafka for one test alone, to kill, pause or restart."""
    with started(KafkaNode()) as server:
        yield server


@pytest.fixture
def kafka_cluster() -> Iterator[KafkaCluster]:
    """Three nodes of Apache Kafka for one test alone: topics have three replicas."""
    with started(KafkaCluster()) as server:
        yield server


@pytest.fixture
def programs(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Programs]:
    """Starts programs under test; ends what is left, and shows their output when the test failed."""
    started = Programs(tmp_path / "programs")
    request.node.stash[_REPORT] = started
    yield started
    started.close()


@pytest.fixture
def tcp_proxy() -> Iterator[Callable[[int], TcpProxy]]:
    """Starts proxies in front of a loopback port, which can delay, cut, reset and stall."""
    started: list[TcpProxy] = []

    def start(port: int) -> TcpProxy:
        proxy = TcpProxy(port)
        started.append(proxy)
        return proxy

    yield start
    for proxy in started:
        proxy.close()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Set aside all there is by now: the collections below then look at what this test makes, in a few ms.

    Looking at all that is alive takes longer than most tests.
    """
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Collect what the test left while its servers still run: what was not closed fails this test, not a later one."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def collect_garbage_of_fixtures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Set up before all others of a test, and so ended after them; pytest itself forgets their values later."""
    yield
    request.node.funcargs.clear()
    gc.collect()


@pytest.fixture(autouse=True, scope="module")
def collect_garbage_of_modules() -> Iterator[None]:
    """What outlives the test that made it and is then left unclosed fails the last test of its module."""
    yield
    gc.unfreeze()
    gc.collect()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Put the output of the programs under test into the report of a test that failed."""
    report = yield
    if report.failed and (programs := item.stash.get(_REPORT, None)) is not None:
        report.sections.append(("programs", programs.report()))
    return report
