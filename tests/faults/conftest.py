"""Engines whose processes the tests may kill, and pytest-celery's nodes on local processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from celery import Celery

from pynomaly_tasks.embedded.redis_server import RedisServer
from support.celery_nodes import (
    LocalRedis,
    LocalTestBackend,
    LocalTestBroker,
    LocalTestWorker,
    LocalWorker,
    LocalWorkerOptions,
)
from support.jobs import Engine, EngineStarter
from support.processes import Programs
from support.transport import Fleet


@pytest.fixture
def start_engine(tmp_path: Path, programs: Programs) -> Iterator[EngineStarter]:
    """Starts engines on a Redis, by its URL, and a store: SQLite unless a URL is given."""
    started: list[Engine] = []

    def start(redis_url: str, store_url: str | None = None, env: Mapping[str, str] | None = None) -> Engine:
        engine = Engine(tmp_path / f"engine-{len(started)}", programs, redis_url, store_url, env)
        started.append(engine)
        return engine

    yield start
    programs.close()
    for engine in started:
        engine.close()


@pytest.fixture
def engine(start_engine: Callable[..., Engine], own_redis: RedisServer) -> Engine:
    """On SQLite and a Redis of its own."""
    return start_engine(own_redis.url)


@pytest.fixture
def fleet(
    own_redis: RedisServer, start_redis: Callable[..., RedisServer], programs: Programs
) -> Iterator[Fleet]:
    """Workers on the transport; what they did is written down in a Redis that nobody stops."""
    fleet = Fleet(own_redis, programs, effects=start_redis())
    yield fleet
    fleet.close()


@pytest.fixture
def celery_broker(own_redis: RedisServer) -> Iterator[LocalTestBroker]:
    """pytest-celery's broker node, on a Redis of the test's own."""
    node = LocalTestBroker(LocalRedis(own_redis, 1))
    yield node
    node.teardown()


@pytest.fixture
def celery_backend(start_redis: Callable[..., RedisServer]) -> Iterator[LocalTestBackend]:
    """pytest-celery's result backend node, on another Redis: the broker may die without it."""
    node = LocalTestBackend(LocalRedis(start_redis(), 2))
    yield node
    node.teardown()


@pytest.fixture
def local_worker_options() -> LocalWorkerOptions:
    """How the worker node is started; a test module overrides it for another app."""
    return LocalWorkerOptions()


@pytest.fixture
def celery_worker(
    celery_broker: LocalTestBroker,
    celery_backend: LocalTestBackend,
    celery_setup_app: Celery,
    programs: Programs,
    local_worker_options: LocalWorkerOptions,
) -> Iterator[LocalTestWorker]:
    """pytest-celery's worker node, on a process group of this machine."""
    urls = celery_broker.config()["url"], celery_backend.config()["url"]
    node = LocalTestWorker(LocalWorker(programs, local_worker_options, *urls), celery_setup_app)
    yield node
    node.teardown()
