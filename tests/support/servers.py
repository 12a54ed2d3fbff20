"""Real neighbours for tests: a PostgreSQL cluster, and where Debian's Chromium lies.

A server that cannot be started fails the test and names the package that is missing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest

from pynomaly_tasks.embedded.child import Child
from pynomaly_tasks.embedded.ports import find_free_port
from support.waiting import wait_until

_PORT_TRIES = 5


def _postgres_program(name: str) -> Path:
    def version(path: Path) -> float:
        return float(path.parts[-3])

    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=version)
    if found:
        return found[-1]
    if path := shutil.which(name):
        return Path(path).resolve()
    pytest.fail(
        f"PostgreSQL's {name} is not installed: run scripts/install_test_servers (package postgresql)"
    )


class PostgresCluster:
    """A PostgreSQL of its own: new files, loopback port, fsync off. Run as `postgres` when we are root."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        # Not under pytest's directory, which only its own user may enter.
        self.directory = Path(tempfile.mkdtemp(prefix="pynomaly-postgres-"))
        self.user = "postgres" if os.geteuid() == 0 else None
        self.log = self.directory / "postgres.log"
        self.port = 0
        self._child: Child | None = None

    def start(self) -> PostgresCluster:
        """Create the cluster and wait until it takes connections."""
        data = self.directory / "data"
        if self.user is not None:
            shutil.chown(self.directory, self.user, self.user)
        self._run(_postgres_program("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
                  "--locale=C.UTF-8", "--no-sync", "--no-instructions")  # fmt: skip
        for _ in range(_PORT_TRIES):
            self.port = find_free_port()
            self._child = Child(self._command(data), log=self.log, user=self.user, cwd=self.directory)
            if self._answers():
                return self
            self._child.kill()
            if "Address already in use" not in self._child.log_tail():
                break
        pytest.fail(
            f"PostgreSQL did not start; its log ends:\n{self._child.log_tail() if self._child else ''}"
        )

    def _command(self, data: Path) -> list[str | Path]:
        options = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.directory,
            "fsync": "off", "full_page_writes": "off",
            "max_connections": 200, "shared_buffers": "32MB", "autovacuum_naptime": "1min",
        }  # fmt: skip
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [_postgres_program("postgres"), "-D", data, *settings]

    def _run(self, *command: str | Path) -> None:
        done = subprocess.run(
            [str(part) for part in command], user=self.user, group=self.user, cwd=self.directory,
            extra_groups=None if self.user is None else [], capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.fail(f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")

    def _answers(self) -> bool:
        child = self._child
        assert child is not None

        def ready() -> bool:
            if not child.is_running():
                return True
            try:
                psycopg.connect(self.dsn("postgres"), connect_timeout=2).close()
            except psycopg.OperationalError:
                return False
            return True

        wait_until(ready, 30.0, "PostgreSQL to take connections")
        return child.is_running()

    def dsn(self, database: str) -> str:
        """For psycopg."""
        return f"host=127.0.0.1 port={self.port} user=postgres dbname={database}"

    def sql(self, statement: str) -> None:
        """Run one statement outside a transaction."""
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def new_database(self) -> str:
        """SQLAlchemy URL of a new, empty database."""
        name = f"test_{uuid.uuid4().hex}"
        self.sql(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"

    def drop_database(self, url: str) -> None:
        """Drop one that `new_database` made, whoever is still connected."""
        self.sql(f"DROP DATABASE IF EXISTS {url.rsplit('/', 1)[1]} WITH (FORCE)")

    def stop(self) -> None:
        """Kill the server as a crash would."""
        assert self._child is not None
        # The postmaster alone: its backends see it die and leave.
        self._child.signal_leader(signal.SIGKILL)
        self._child.kill()

    def restart(self) -> None:
        """Kill the server if it runs, and start it again on the same port."""
        self.stop()
        (self.directory / "data" / "postmaster.pid").unlink(missing_ok=True)
        self._child = Child(
            self._command(self.directory / "data"), log=self.log, user=self.user, cwd=self.directory
        )
        if not self._answers():
            pytest.fail(f"PostgreSQL did not start again:\n{self._child.log_tail()}")

    def close(self) -> None:
        """Stop it at once and remove its files."""
        if self._child is not None:
            self._child.stop(10.0, signal.SIGINT)
        shutil.rmtree(self.directory, ignore_errors=True)


def chromium_path() -> Path:
    """Debian's Chromium; fails the test when it is not installed."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return Path(path)
    pytest.fail("Chromium is not installed: run scripts/install_test_servers (package chromium)")


#: Enough for Playwright to run it as root in a container, with no call to the outside.
CHROMIUM_ARGUMENTS: Sequence[str] = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
