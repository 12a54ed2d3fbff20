"""One suite over every messaging backend, each on its real broker; and tests that are coroutines."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Iterator

import pytest

from support.kafka_topics import unique_name
from support.messaging import (
    BrokerUnderTest,
    KafkaUnderTest,
    MemoryUnderTest,
    MqttUnderTest,
    PlainMemoryUnderTest,
    RedisUnderTest,
)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine in a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(params=["memory", "plain_memory", "redis_streams", "kafka", "event_hubs", "mqtt"])
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
    if request.param == "mqtt":
        yield MqttUnderTest(request.getfixturevalue("mosquitto").url, namespace=unique_name("test"))
        return
    server = request.getfixturevalue("redis_server")
    yield RedisUnderTest(f"{server.url}/0", namespace=f"test:{uuid.uuid4().hex}")
