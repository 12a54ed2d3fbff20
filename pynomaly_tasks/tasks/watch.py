"""The worker's parent process watches over its running jobs: leases, cancels, time limits.

It is the parent that renews, not the child: a task that holds the GIL for a minute would starve a
thread of its own process and lose its lease while it works.
"""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Any

from celery import bootsteps
from celery.worker import control, state

from pynomaly_tasks.bootstrap import current_platform
from pynomaly_tasks.errors import JobCancelled, PynomalyError, TimeLimitExceeded
from pynomaly_tasks.queueing.queue import HURRY
from pynomaly_tasks.tasks.identity import worker_id
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)


#: Set when somebody cancelled a job that runs here: the next look is at once.
_hurry = threading.Event()


@control.control_command(name=HURRY, help="Look at once whether a running job was cancelled.")
def look_for_cancels(state: Any) -> None:
    """Sent by who cancels a job. It may get lost: the worker looks every ``cancel_poll_s`` by itself."""
    _hurry.set()


class Watch(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Starts the watching thread once the pool is up.

    The thread has no stop: a worker that shuts down warmly still finishes jobs, and their leases
    must hold until the last one has ended. It dies with the process.
    """

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        """Start watching."""
        threading.Thread(target=_watch, args=(parent,), name="job-watch", daemon=True).start()


def _watch(worker: Any) -> None:
    watching = _Watching(worker)
    while True:
        _hurry.wait(watching.pause_s)
        _hurry.clear()
        try:
            watching.look()
        except PynomalyError as error:
            log.warning("leases_not_renewed", error=str(error))
        except Exception:
            # The outermost loop of a thread that every lease hangs on: it must not end.
            log.exception("watch_failed")


class _Watching:
    """What the thread remembers from look to look."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._platform = current_platform()
        self._jobs = self._platform.settings.jobs
        self._me = worker_id(worker.hostname)
        self._renew_every_s = self._jobs.lease_s / self._jobs.heartbeats_per_lease
        self._renewed_at_s = float("-inf")
        self._cancelled_since: dict[str, float] = {}

    @property
    def pause_s(self) -> float:
        """Until the next look: shorter when a cancelled job's time to stop by itself runs out sooner."""
        pause_s = min(self._jobs.cancel_poll_s, self._renew_every_s)
        for first_seen_s in self._cancelled_since.values():
            left_s = first_seen_s + self._jobs.cancel_grace_s - time.monotonic()
            if left_s > 0:
                pause_s = min(pause_s, left_s)
        return pause_s

    def look(self) -> None:
        """Renew the leases, stop what was cancelled or is out of time. Raises StoreUnavailable."""
        requests = _requests()
        if not requests:
            self._cancelled_since.clear()
            return
        now = time.monotonic()
        for job_id, attempt in list(self._platform.runner.running.items()):
            # Jobs in threads of this process; in children, Celery's own limits do this.
            if now > attempt.stop_at_s + self._jobs.cancel_grace_s and job_id in requests:
                _stop_by_force(self._worker, requests[job_id], TimeLimitExceeded)
        if now - self._renewed_at_s >= self._renew_every_s:
            self._platform.store.renew(self._me, list(requests), self._jobs.lease_s)
            self._renewed_at_s = now
        since = self._cancelled_since
        asked = self._platform.store.find_cancelled(self._me)
        self._cancelled_since = {job_id: since.get(job_id, now) for job_id in asked}
        for job_id, first_seen_s in self._cancelled_since.items():
            if now - first_seen_s >= self._jobs.cancel_grace_s and job_id in requests:
                _stop_by_force(self._worker, requests[job_id], JobCancelled)


def _requests() -> dict[str, Any]:
    """What this worker has taken, by job id; the sets change under us, in the main thread."""
    while True:
        try:
            return {request.id: request for request in (*state.reserved_requests, *state.active_requests)}
        except RuntimeError:
            continue


def _stop_by_force(worker: Any, request: Any, reason: type[Exception]) -> None:
    log.warning("job_stopped_by_force", job_id=request.id, reason=reason.__name__)
    running = current_platform().runner.running.get(request.id)
    if running is not None:
        # A thread cannot be killed. This raises in it as soon as it runs Python code again.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(running.thread_id), ctypes.py_object(reason)
        )
    elif request.time_start:
        request.terminate(worker.pool, signal="KILL")
