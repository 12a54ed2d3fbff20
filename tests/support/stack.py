"""A running platform for tests: Redis, a store, worker processes, and this process as their client."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery.result import AsyncResult

from pynomaly_tasks import bootstrap
from pynomaly_tasks.bootstrap import Platform, app, current_platform
from pynomaly_tasks.core.job import Job, JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.queueing.app import celery_options
from pynomaly_tasks.settings import current_settings
from support.processes import ROOT, Program, Programs
from support.waiting import wait_until

#: Short, so that what takes a lease or a pause in production takes a second here.
FAST = {
    "PYNOMALY_JOBS__LEASE_S": "3",
    "PYNOMALY_JOBS__RESCUE_EVERY_S": "0.5",
    "PYNOMALY_JOBS__LOST_MESSAGE_AFTER_S": "2",
    "PYNOMALY_JOBS__PROMOTE_EVERY_S": "0.1",
    "PYNOMALY_JOBS__CANCEL_GRACE_S": "0.5",
    "PYNOMALY_JOBS__CANCEL_POLL_S": "0.1",
    "PYNOMALY_JOBS__PROGRESS_EVERY_S": "0.05",
    "PYNOMALY_REDIS__CONNECT_TIMEOUT_S": "1",
    "PYNOMALY_REDIS__SOCKET_TIMEOUT_S": "5",
    "PYNOMALY_LOG__FORMAT": "json",
}


class Stack:
    """Redis and a data directory; `worker` starts the platform's own worker processes on them."""

    def __init__(self, directory: Path, redis: RedisServer, env: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.redis = redis
        self.data = directory / "datasets"  #: datasets may be read from here
        self.data.mkdir(parents=True)
        self.programs = Programs(directory / "programs")
        self.env = {
            **FAST,
            "PYNOMALY_REDIS__URL": redis.url,
            "PYNOMALY_DATA__DIRECTORY": str(directory / "platform"),
            "PYNOMALY_DATA__ROOTS": json.dumps([str(self.data)]),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            **(env or {}),
        }

    @property
    def platform(self) -> Platform:
        """This process's platform; valid within `client`."""
        return current_platform()

    def worker(
        self,
        module: str = "workers.all",
        *arguments: str,
        name: str = "worker",
        env: Mapping[str, str] | None = None,
    ) -> Program:
        """Start ``celery -A module worker``, and wait until it answers a ping."""
        node = f"{name}{len(self.programs.started)}@localhost"
        program = self.programs.start(
            sys.executable, "-m", "celery", "-A", module, "worker", "--loglevel", "INFO", "-n", node, *arguments,
            name=name, env={**self.env, **(env or {})},
        )  # fmt: skip

        def ready() -> Any:
            if not program.is_running():
                raise AssertionError(f"the worker ended with {program.returncode}:\n{program.log_tail(60)}")
            return app.control.inspect([node], timeout=0.5).ping()

        wait_until(ready, 30.0, f"{node} to answer a ping")
        return program

    def csv(self, name: str, rows: Sequence[Sequence[object]], header: Sequence[str] = ("a", "b")) -> str:
        """Write a dataset; its path."""
        path = self.data / name
        path.write_text("\n".join(",".join(map(str, row)) for row in [header, *rows]) + "\n")
        return str(path)

    def wait_for(self, job_id: str, *states: JobState, timeout_s: float = 30.0) -> Job:
        """The job, once it is in one of the states; by default, once it has ended."""

        def seen() -> Job | None:
            job = self.platform.store.get_job(job_id)
            return job if (job.state in states if states else job.state.is_final) else None

        try:
            return wait_until(seen, timeout_s, f"job {job_id} to be {states or 'final'}")
        except AssertionError as error:
            error.add_note(f"{self.platform.store.get_job(job_id)}\n{self.programs.report()}")
            raise

    def close(self) -> None:
        """End every worker."""
        self.programs.close()


@contextmanager
def client(stack: Stack) -> Iterator[Stack]:
    """Make this process a client of the stack: ``.delay()``, ``AsyncResult``, `current_platform`."""
    before = {name: os.environ.get(name) for name in stack.env}
    os.environ.update(stack.env)
    _point_app_at_settings()
    try:
        yield stack
    finally:
        stack.platform.close()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
        _point_app_at_settings()


def _point_app_at_settings() -> None:
    """The app of the package is one a process; tests of several modules share the process."""
    current_settings.cache_clear()
    bootstrap._platform_of.cache_clear()
    if app._pool is not None:
        app._pool.force_close_all()
    if getattr(app._local, "backend", None) is not None:
        app._local.backend.client.close()
    app._pool = None
    app.amqp._producer_pool = None
    app._local = threading.local()
    app._backend_cache = None
    app.__dict__.pop("amqp", None)
    app.conf.update(celery_options(current_settings()))


def result_of(job_id: str) -> AsyncResult:
    """Celery's view of a job."""
    return AsyncResult(job_id, app=app)
