"""A store on each of the two databases; a broker to look into; settings of the message queues."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.settings import Settings
from pynomaly_tasks.store.store import Store


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """SQLAlchemy URL of an empty database: the test runs on both kinds."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """A job store, its tables made."""
    store = Store(store_url, pool_size=8)
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def broker(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """The module's broker database, emptied."""
    with redis_server.client(1) as client:
        client.flushall()
        yield client


@pytest.fixture
def load_messaging(load: Callable[..., Settings]) -> Callable[..., Settings]:
    """Loads the settings with these of the section messaging, and no others."""
    return lambda **variables: load(**{f"MESSAGING__{name}": value for name, value in variables.items()})
