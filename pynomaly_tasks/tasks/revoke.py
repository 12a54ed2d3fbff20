"""Celery's ``revoke``, also remembered by the store."""

from __future__ import annotations

from typing import Any

from celery.concurrency.base import BasePool
from celery.utils.functional import maybe_list
from celery.worker import control

from pynomaly_tasks.bootstrap import current_platform
from pynomaly_tasks.core.audit_events import Actor
from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.errors import Conflict, NotFound, PynomalyError
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)

#: Celery does not say who asked.
REVOKER = Actor(name="unknown", door="celery")


@control.control_command(
    name="revoke", variadic="task_id", signature="[id1 [id2 [... [idN]]]]", help="Revoke tasks by their ids."
)
def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **kwargs: Any) -> Any:
    """Revoke in the store first, then as Celery does.

    Celery keeps revoked ids in the memory of the workers that run now. A job that waits for its
    time or its next try is in none of them, and a worker started later knows nothing. As with
    Celery, a job that runs is stopped only with ``terminate``.
    """
    job_ids = set(maybe_list(task_id) or ())
    for job_id in job_ids:
        _cancel(job_id, running_too=terminate)
    # A thread cannot be killed; the watch stops the cancelled job in it.
    can_kill = type(state.consumer.pool).terminate_job is not BasePool.terminate_job
    return control.revoke(state, job_ids, terminate=terminate and can_kill, signal=signal, **kwargs)


def _cancel(job_id: str, *, running_too: bool) -> None:
    platform = current_platform()
    try:
        if running_too or platform.store.get_job(job_id).state is not JobState.RUNNING:
            platform.cancel(job_id, "revoked through Celery", actor=REVOKER)
    except (NotFound, Conflict):
        pass  # no job of ours; or it has ended, perhaps because another worker heard of this first
    except PynomalyError as error:
        log.warning("revoke_not_stored", job_id=job_id, error=str(error))
