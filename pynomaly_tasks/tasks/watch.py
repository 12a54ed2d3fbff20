"""The worker's parent process watches over its running jobs: leases, cancels, time limits.

It is the parent that renews, not the child: a task that holds the GIL for a minute would starve a
thread of its own process and lose its lease while it works.
"""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Any

import structlog
from celery import bootsteps
from celery.worker import state

from pynomaly_tasks.bootstrap import current_platform
from pynomaly_tasks.errors import JobCancelled, PynomalyError, TimeLimitExceeded
from pynomaly_tasks.tasks.identity import worker_id

log = structlog.get_logger(__name__)


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
    platform = current_platform()
    jobs = platform.settings.jobs
    me = worker_id(worker.hostname)
    renew_every_s = jobs.lease_s / jobs.heartbeats_per_lease
    renewed_at_s = float("-inf")
    cancelled_since: dict[str, float] = {}
    while True:
        time.sleep(min(jobs.cancel_poll_s, renew_every_s))
        requests = _requests()
        if not requests:
            cancelled_since.clear()
            continue
        try:
            now = time.monotonic()
            if now - renewed_at_s >= renew_every_s:
                platform.store.renew(me, list(requests), jobs.lease_s)
                renewed_at_s = now
            asked = set(platform.store.find_cancelled(me))
        except PynomalyError as error:
            log.warning("leases_not_renewed", n_jobs=len(requests), error=str(error))
            continue
        cancelled_since = {job_id: cancelled_since.get(job_id, now) for job_id in asked}
        for job_id, since in cancelled_since.items():
            if now - since >= jobs.cancel_grace_s and job_id in requests:
                _stop_by_force(worker, requests[job_id], JobCancelled)
        for job_id, attempt in list(platform.runner.running.items()):
            # Jobs in threads of this process; in children, Celery's own limits do this.
            if now > attempt.stop_at_s + jobs.cancel_grace_s and job_id in requests:
                _stop_by_force(worker, requests[job_id], TimeLimitExceeded)


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
