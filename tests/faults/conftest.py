"""Engines whose processes the tests may kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from pynomaly_tasks.embedded.redis_server import RedisServer
from support.jobs import Engine, EngineStarter
from support.processes import Programs


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
