"""The whole platform on one machine: Redis, a worker, events, beat and the web page, on free loopback ports."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import IO, Self

import orjson

from pynomaly_tasks.embedded.processes import ProcessGroup, ProcessSpec
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import Conflict
from pynomaly_tasks.settings import EMBEDDED_ENV_FILE, Settings

#: Where the processes of the Procfile are found, whatever directory the stack is started in.
_ROOT = Path(__file__).resolve().parents[2]
_LOCK_FILE = "embedded.lock"
#: Would lead the processes of this stack to another Redis than its own.
_OTHER_REDIS = frozenset(
    {"PYNOMALY_REDIS"} | {f"PYNOMALY_REDIS__{name}_URL" for name in ("BROKER", "RESULTS", "STREAMS")}
)


class EmbeddedStack:
    """A running platform of its own; a context manager that leaves no process behind.

    Everything it keeps is in the data directory, which one stack at a time may use. While it runs,
    `embedded.env` there tells every other process that uses the same directory where its Redis is.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        restart: bool = False,
        flower: bool = False,
        isolated: bool = False,
        fresh: bool = False,
        on_exit: Callable[[str, int], None] | None = None,
    ) -> None:
        """Nothing runs yet.

        ``restart``: `watch` starts again what ends. ``isolated``: the processes know none of this
        process' settings, such as a production database, but the data directory and its roots.
        ``fresh``: what an earlier stack left in the data directory is deleted.
        """
        self._settings = settings
        self.directory = settings.data.directory.absolute()
        self._flower = flower
        self._restart = restart
        self._isolated = isolated
        self._fresh = fresh
        self._lock: IO[str] | None = None
        self.log_directory = self.directory / "logs"
        self._redis = RedisServer(self.directory / "redis")
        self._processes = ProcessGroup(self.log_directory, restart=restart, on_exit=on_exit)
        self.web_address = ""
        self.flower_address = ""

    @property
    def redis_flavour(self) -> str:
        """Which server the embedded Redis is, with its version."""
        return str(self._redis.flavour)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every process that belongs to this stack."""
        kept = {name: value for name, value in os.environ.items() if not self._is_replaced(name.upper())}
        return {**kept, **self._variables()}

    def start(self) -> None:
        """Start everything and wait until it is ready.

        Raises Unavailable with the log of what failed, and Conflict where the directory is in use.
        """
        self._take_directory()
        self._redis.start()
        self._write_environment_file()
        python = sys.executable
        celery = [python, "-m", "celery"]
        env = {
            **self.environment,
            "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        self._processes.start(
            self._spec(
                "worker",
                # Alone on its Redis: it need not look for other workers, which takes a second.
                [*celery, "-A", "workers.all", "worker", "--without-mingle", "--without-gossip"],
                env,
                ready=r"\bready\.",
                stage=1,
            ),
            self._spec("web", [python, "-m", "workers.web"], env, ready=r"https?://\S+", stage=1),
            # Ended after the others, so that what they did last is published, too.
            self._spec("events", [python, "-m", "workers.events"], env, ready="events_started", stage=0),
        )
        self._processes.start(
            self._spec(
                "beat",
                [
                    *celery,
                    "-A",
                    "workers.beat",
                    "beat",
                    "-s",
                    str(self.directory / "beat-schedule"),
                    "--pidfile=",
                ],
                env,
                stage=1,
            )
        )
        self.web_address = self._processes.wait_for_output("web", r"https?://[\w.:\[\]-]+", 1.0).group()
        if self._flower:
            self._start_flower(celery, env)

    def _start_flower(self, celery: list[str], env: Mapping[str, str]) -> None:
        command = [*celery, "-A", "workers.flower", "flower", "--address=127.0.0.1", "--port=0"]
        self._processes.start(self._spec("flower", command, env, ready=r"Visit me at", stage=1))
        found = self._processes.wait_for_output("flower", r"Visit me at (\S+)", 1.0)
        self.flower_address = found.group(1)

    def watch(self, stop: Event) -> None:
        """Until ``stop`` is set, start again what ends."""
        self._processes.watch(stop, also=self._keep_redis)

    def _keep_redis(self) -> None:
        if self._restart and not self._redis.is_running():
            self._redis.start()  # on its port, with what its append-only file holds

    def stop(self) -> None:
        """End everything, Redis last."""
        if self._lock is None:
            return  # never started: the files are another stack's
        try:
            self._processes.stop()
        finally:
            (self.directory / EMBEDDED_ENV_FILE).unlink(missing_ok=True)
            self._redis.stop()
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        """Running, or raises with nothing left behind."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stopped."""
        self.stop()

    def _take_directory(self) -> None:
        # Two Redis servers that append to one file would destroy it.
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = (self.directory / _LOCK_FILE).open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise Conflict(
                f"another embedded platform runs in {self.directory}; end it first, or name another "
                "directory with PYNOMALY_DATA__DIRECTORY"
            ) from None
        self._lock = lock
        if self._fresh:
            for left in self.directory.iterdir():
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left)
                elif left.name != _LOCK_FILE:
                    left.unlink()

    def _is_replaced(self, variable: str) -> bool:
        return variable in _OTHER_REDIS or (self._isolated and variable.startswith("PYNOMALY_"))

    def _variables(self) -> dict[str, str]:
        return {
            "PYNOMALY_REDIS__URL": self._redis.url,
            "PYNOMALY_DATA__DIRECTORY": str(self.directory),
            "PYNOMALY_DATA__ROOTS": orjson.dumps([str(root) for root in self._settings.data.roots]).decode(),
            "PYNOMALY_WEB__PORT": str(self._settings.web.port),
        }

    def _write_environment_file(self) -> None:
        lines = [f"# pid {os.getpid()}", *(f"{name}={value}" for name, value in self._variables().items())]
        target = self.directory / EMBEDDED_ENV_FILE
        unfinished = target.with_suffix(".part")
        unfinished.write_text("\n".join(lines) + "\n")
        unfinished.replace(target)

    @staticmethod
    def _spec(
        name: str, command: list[str], env: Mapping[str, str], *, stage: int, ready: str | None = None
    ) -> ProcessSpec:
        return ProcessSpec(name=name, command=command, env=env, cwd=_ROOT, stage=stage, ready=ready)
