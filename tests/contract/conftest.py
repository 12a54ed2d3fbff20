"""One suite over every messaging backend, each on its real broker; and tests that are coroutines."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from pynomaly_tasks.messaging import capability_table
from pynomaly_tasks.messaging.capabilities import Support
from support.messaging import BrokerUnderTest, MemoryUnderTest, PlainMemoryUnderTest, ServerUnderTest
from support.plain_memory import PlainMemoryBroker

#: Of each backend the fixture of its server, and the URL of that.
SERVERS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "redis_streams": ("redis_server", lambda server: f"{server.url}/0"),
    "rabbitmq": ("rabbitmq", lambda server: server.url),
    "kafka": ("kafka", lambda node: f"kafka://{node.bootstrap}"),
    "event_hubs": ("event_hubs", lambda node: node.connection_string),
    "mqtt": ("mosquitto", lambda server: server.url),
    "sqs": ("sqs_server", lambda server: server.url),
    "pubsub": ("pubsub_emulator", lambda server: server.url),
}
#: The backends that the suite runs on; `plain_memory` is the emulation layer over the least broker there can be.
BROKERS = ["memory", "plain_memory", *SERVERS]


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
def broker(request: pytest.FixtureRequest) -> BrokerUnderTest:
    """An empty broker; the test runs on each kind."""
    name: str = request.param
    if name == "memory":
        return MemoryUnderTest()
    if name == "plain_memory":
        return PlainMemoryUnderTest()
    fixture, url_of = SERVERS[name]
    return ServerUnderTest(name, url_of(request.getfixturevalue(fixture)))
