"""Connections to the database: one engine a process, reads and writes apart."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from pynomaly_tasks.errors import StoreUnavailable

SQLITE_BUSY_TIMEOUT_S = 30
# Without them a statement to a server that has vanished waits for a quarter of an hour, and the
# leases that it was to renew run out.
_POSTGRESQL_OPTIONS = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,  # milliseconds
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
}


# A process that stands still in the middle of a transaction, as a paused machine's does, keeps its locks;
# everyone who needs those rows would wait for as long. After this its transaction is rolled back.
_LONGEST_IDLING_MS = 30_000

#: A pooled connection to PostgreSQL is asked whether it still works when it was unused for this long.
_RESTED_S = 1.0
_LAST_USE_S = "last_use_s"

_NO_SQLITE_FILE = frozenset({"SQLITE_NOTADB", "SQLITE_CORRUPT"})


class _ForkGate:
    """No process is forked while a thread of it is inside SQLite.

    SQLite's allocator has one lock a process. A child forked while another thread held it could
    never open a database: the pool's slot would hang, with its job. A worker's parent process has
    two threads that ask the store several times a second, and forks whenever a child is replaced.
    """

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(before=self._close, after_in_parent=self._open, after_in_child=self._reset)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._n_inside = 0
        self._is_closed = False
        self._mine = threading.local()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Hold forks back for the length of the block."""
        depth: int = getattr(self._mine, "depth", 0)
        with self._changed:
            while self._is_closed and not depth:
                self._changed.wait()
            self._n_inside += 1
        self._mine.depth = depth + 1
        try:
            yield
        finally:
            self._mine.depth = depth
            with self._changed:
                self._n_inside -= 1
                self._changed.notify_all()

    def _close(self) -> None:
        with self._changed:
            self._is_closed = True
            while self._n_inside > getattr(self._mine, "depth", 0):
                self._changed.wait()

    def _open(self) -> None:
        with self._changed:
            self._is_closed = False
            self._changed.notify_all()


_fork_gate = _ForkGate()


class Database:
    """The job store's database. Connects at the first use, and anew in a forked child."""

    def __init__(self, url: str, pool_size: int = 4) -> None:
        self.url = make_url(url)
        self._pool_size = pool_size
        self._engine: Engine | None = None
        self._writing: Engine | None = None
        self._writing_once: Engine | None = None
        self._pid = 0
        self._lock = threading.Lock()

    @property
    def is_sqlite(self) -> bool:
        """Whether writers take turns on one file."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def engine(self) -> Engine:
        """This process's engine."""
        if self._engine is None or self._pid != os.getpid():
            with self._lock:
                if self._engine is None or self._pid != os.getpid():
                    if self._engine is not None:
                        # A forked child must not use, nor close, its parent's connections.
                        self._engine.dispose(close=False)
                    self._engine = self._build_engine()
                    self._writing = self._engine.execution_options(writes=True)
                    self._writing_once = self._engine.execution_options(isolation_level="AUTOCOMMIT")
                    self._pid = os.getpid()
        return self._engine

    @property
    def _writing_engine(self) -> Engine:
        """The same, with its connections; what it begins is a writer's transaction."""
        _ = self.engine
        assert self._writing is not None
        return self._writing

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads; on SQLite it never waits for a writer."""
        with mapped_errors(), self._forkable(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes: committed at the end of the block, rolled back on an error."""
        # Taking SQLite's write lock at once instead of at the first write: a reader that
        # turns writer in mid-transaction fails with "database is locked" without waiting.
        with mapped_errors(), self._forkable(), self._writing_engine.begin() as connection:
            yield connection

    @contextmanager
    def writing_once(self) -> Iterator[Connection]:
        """For one statement, which is a transaction by itself.

        PostgreSQL commits it without being told: a process that is stopped at that moment keeps no row
        locked, as it would between a statement and its commit.
        """
        if self.is_sqlite:
            with self.writing() as connection:
                yield connection
            return
        _ = self.engine
        assert self._writing_once is not None
        with mapped_errors(), self._writing_once.connect() as connection:
            yield connection

    def revision(self) -> str | None:
        """The migration that the tables are at; None for an empty database."""
        with self.reading() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()

    def close(self) -> None:
        """Close this process's connections."""
        if self._engine is not None and self._pid == os.getpid():
            self._engine.dispose()

    def _forkable(self) -> AbstractContextManager[None]:
        return _fork_gate.inside() if self.is_sqlite else nullcontext()

    def _build_engine(self) -> Engine:
        common: dict[str, Any] = {
            "json_serializer": lambda value: orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode(),
            "json_deserializer": orjson.loads,
        }
        if not self.is_sqlite:
            engine = create_engine(
                self.url, pool_size=self._pool_size, connect_args=_POSTGRESQL_OPTIONS, **common
            )
            event.listen(engine, "connect", _limit_idling)
            event.listen(engine, "checkin", _note_last_use)
            event.listen(engine, "checkout", partial(_check_if_rested, engine))
            return engine
        if self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(self.url, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_S}, **common)
        event.listen(engine, "connect", _prepare_sqlite_connection)
        event.listen(engine, "begin", _begin_sqlite)
        return engine


def _limit_idling(connection: Any, record: ConnectionPoolEntry) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET idle_in_transaction_session_timeout = {_LONGEST_IDLING_MS}")
    connection.commit()


def _note_last_use(connection: Any, record: ConnectionPoolEntry) -> None:
    record.info[_LAST_USE_S] = time.monotonic()


def _check_if_rested(engine: Engine, connection: Any, record: ConnectionPoolEntry, proxy: object) -> None:
    """Notice a server that has restarted while the connection lay in the pool.

    A question before each use would be one more round trip for every transaction.
    """
    last_use_s = record.info.get(_LAST_USE_S)
    if last_use_s is None or time.monotonic() - last_use_s < _RESTED_S:
        return
    try:
        engine.dialect.do_ping(connection)
    except engine.dialect.loaded_dbapi.Error as error:
        raise InvalidatePoolError(str(error)) from error


def _prepare_sqlite_connection(connection: Any, record: object) -> None:
    connection.isolation_level = None  # BEGIN is ours, below
    cursor = connection.cursor()
    _set_wal_mode(cursor)
    # In WAL mode NORMAL keeps the file whole through a power cut; FULL also keeps the last
    # commits, and a submitted job must not vanish.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _set_wal_mode(cursor: sqlite3.Cursor) -> None:
    """Turn the file to WAL mode, in which it stays.

    Of several processes that open a new file at once, those that come second are refused without
    the waiting that the connection's timeout promises.
    """
    give_up_at_s = time.monotonic() + SQLITE_BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > give_up_at_s:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def mapped_errors() -> Iterator[None]:
    """Turn the driver's connection errors into StoreUnavailable."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        if getattr(getattr(error, "orig", None), "sqlite_errorname", "") == "SQLITE_ERROR":
            raise  # a mistake in the statement, which sqlite3 gives the same class
        raise StoreUnavailable(
            f"the job store gave no answer: {_in_one_line(getattr(error, 'orig', error))}"
        ) from error
    except DBAPIError as error:
        if getattr(error.orig, "sqlite_errorname", "") in _NO_SQLITE_FILE:
            raise StoreUnavailable(f"the job store cannot be read: {_in_one_line(error.orig)}") from error
        if error.connection_invalidated:
            raise StoreUnavailable(
                f"the connection to the job store broke: {_in_one_line(error.orig)}"
            ) from error
        raise


def _in_one_line(error: object) -> str:
    """What the driver says, often over several lines with advice."""
    return " ".join(str(error).split())
