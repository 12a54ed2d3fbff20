"""One suite over every messaging backend, each on its real broker; and tests that are coroutines."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Iterator

import pytest

from pynomaly_tasks.messaging import capability_table
from pynomaly_tasks.messaging.capabilities import Support
from support.kafka_topics import unique_name
from support.messaging import (
    BrokerUnderTest,
    KafkaUnderTest,
    MemoryUnderTest,
    MqttUnderTest,
    PlainMemoryUnderTest,
    PubSubUnderTest,
    RabbitUnderTest,
    RedisUnderTest,
    SqsUnderTest,
)
from support.plain_memory import PlainMemoryBroker

#: The backends that the suite runs on; `plain_memory` is the emulation layer over the least broker there can be.
BROKERS = [
    "memory",
    "plain_memory",
    "redis_streams",
    "rabbitmq",
    "kafka",
    "event_hubs",
    "mqtt",
    "sqs",
    "pubsub",
]


def pytest_configure(config: pytest.Config) -> None:
    """Say what the marker means."""
    config.addinivalue_line("markers", "needs(*capabilities): what the backend must not declare absent")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on each backend that has what it needs; of the others it is tested that they refuse it."""
    if "broker" not in metafunc.fixturenames:
        return
    table = {**capability_table(), "plain_memory": PlainMemoryBroker.capabilities}
    needed = [name for mark in metafunc.definition.iter_markers("needs") for name in mark.args]
    chosen = [
        name
        for name in BROKERS
        if all(getattr(table[name], capability) is not Support.ABSENT for capability in needed)
    ]
    metafunc.parametrize(
        "broker",
        [pytest.param(name, marks=[pytest.mark.pubsub] if name == "pubsub" else []) for name in chosen],
        indirect=True,
    )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine in a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Iterator[BrokerUnderTest]:
    """An empty broker; the test runs on each kind."""
    if request.param == "memory":
        yield MemoryUnderTest()
        return
    if request.param == "plain_memory":
        yield PlainMemoryUnderTest()
        return
    if request.param == "kafka":
        node = request.getfixturevalue("kafka")
        yield KafkaUnderTest("kafka", f"kafka://{node.bootstrap}", namespace=unique_name("test"))
        return
    if request.param == "event_hubs":
        node = request.getfixturevalue("event_hubs")
        yield KafkaUnderTest("event_hubs", node.connection_string, namespace=unique_name("test"))
        return
    if request.param == "rabbitmq":
        yield RabbitUnderTest(request.getfixturevalue("rabbitmq").url, namespace=unique_name("test"))
        return
    if request.param == "mqtt":
        yield MqttUnderTest(request.getfixturevalue("mosquitto").url, namespace=unique_name("test"))
        return
    if request.param == "sqs":
        yield SqsUnderTest(request.getfixturevalue("sqs_server").url, namespace=unique_name("test"))
        return
    if request.param == "pubsub":
        yield PubSubUnderTest(request.getfixturevalue("pubsub_emulator").url, namespace=unique_name("test"))
        return
    server = request.getfixturevalue("redis_server")
    yield RedisUnderTest(f"{server.url}/0", namespace=f"test:{uuid.uuid4().hex}")
