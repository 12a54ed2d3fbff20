"""pytest-celery's broker, backend and worker nodes on local processes instead of containers.

A node of pytest-celery talks to its "container" by a few names: kill, restart, status, logs, id and the
like. The classes here answer to those names for a process of this machine.
"""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import celery
import psutil
from pytest_celery import CeleryTestBackend, CeleryTestBroker, CeleryTestWorker

from pynomaly_tasks.embedded.redis_server import RedisServer
from support.processes import Program, Programs


class LocalRedis:
    """A Redis server, answering as a container."""

    def __init__(self, server: RedisServer, database: int) -> None:
        self.server = server
        self.database = database
        self.id = f"redis-{server.port}"
        self.name = self.id

    @property
    def celeryconfig(self) -> dict[str, Any]:
        url = f"{self.server.url}/{self.database}"
        return {"url": url, "host_url": url, "hostname": "127.0.0.1", "port": self.server.port, "vhost": "/"}

    @property
    def status(self) -> str:
        return "running" if self.server.is_running() else "exited"

    def ready(self) -> bool:
        with self.server.client() as client:
            return bool(client.ping())

    def kill(self, signal: str | int = "SIGKILL") -> None:  # the name that pytest-celery uses
        if _number(signal) == _number("SIGKILL"):
            self.server.kill()
        else:
            self.server.stop()

    def restart(self, timeout: float = 10.0) -> None:
        self.server.restart()

    def reload(self) -> None:
        """Nothing is cached here."""

    def logs(self) -> str:
        return self.server.log.read_text("utf-8", "replace")

    def teardown(self) -> None:
        self.server.stop()


@dataclass(frozen=True, kw_only=True)
class LocalWorkerOptions:
    """How to start the worker of a test; override the fixture `local_worker_options` to change it."""

    app: str = "support.tiny_celery_app"
    queue: str = "celery"
    name: str = "local"
    arguments: Sequence[str] = ("--concurrency", "1")
    env: Mapping[str, str] = field(default_factory=dict)


class LocalWorker:
    """A Celery worker, answering as a container."""

    def __init__(self, programs: Programs, options: LocalWorkerOptions, broker: str, backend: str) -> None:
        self.options = options
        self.id = uuid.uuid4().hex
        self.name = f"{options.name}@{self.id[:12]}"
        self._programs = programs
        self._env = {
            "CELERY_BROKER_URL": broker,
            "CELERY_RESULT_BACKEND": backend,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
            **options.env,
        }
        self._runs: list[Program] = []
        self._start()

    def _start(self) -> None:
        self._runs.append(
            self._programs.start(
                sys.executable, "-m", "celery", "-A", self.options.app, "worker", "--loglevel", "INFO",
                "-n", self.name, "-Q", self.options.queue, *self.options.arguments,
                name=self.options.name, env=self._env, ready=r"\bready\.",
            )
        )  # fmt: skip

    @property
    def program(self) -> Program:
        """The process that runs, or ran last."""
        return self._runs[-1]

    @property
    def status(self) -> str:
        return "running" if self.program.is_running() else "exited"

    @property
    def celeryconfig(self) -> dict[str, Any]:
        return {"url": self._env["CELERY_BROKER_URL"], "host_url": self._env["CELERY_BROKER_URL"]}

    def ready(self) -> bool:
        return self.program.is_running()

    def kill(self, signal: str | int = "SIGKILL") -> None:  # the name that pytest-celery uses
        if _number(signal) == _number("SIGKILL"):
            self.program.kill()
        else:
            self.program.stop(30.0, _number(signal))

    def restart(self, timeout: float = 30.0) -> None:
        self.program.stop(timeout)
        self._start()

    def reload(self) -> None:
        """Nothing is cached here."""

    def logs(self) -> str:
        return "".join(run.output() for run in self._runs)

    def teardown(self) -> None:
        self.program.stop(10.0)

    def version(self) -> str:
        return celery.__version__

    def log_level(self) -> str:
        return "INFO"

    def worker_name(self) -> str:
        return self.options.name

    def worker_queue(self) -> str:
        return self.options.queue


class LocalTestBroker(CeleryTestBroker):
    """A broker node on a local Redis."""


class LocalTestBackend(CeleryTestBackend):
    """A result backend node on a local Redis."""


class LocalTestWorker(CeleryTestWorker):
    """A worker node on a local process group."""

    def get_running_processes_info(
        self, columns: list[str] | None = None, filters: dict[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """The worker's process and its children, as psutil sees them."""
        leader = psutil.Process(self.container.program.pid)
        rows = [process.as_dict(columns) for process in [leader, *leader.children(recursive=True)]]
        return [row for row in rows if all(row.get(name) == value for name, value in (filters or {}).items())]


def _number(name: str | int) -> int:
    return int(signal.Signals[name] if isinstance(name, str) else name)
