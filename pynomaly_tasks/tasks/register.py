"""From a kind of job to the Celery task that submits and runs it."""

from __future__ import annotations

from typing import cast

from celery.local import PromiseProxy

from pynomaly_tasks.bootstrap import add_kind, app
from pynomaly_tasks.jobs.context import Kind
from pynomaly_tasks.kinds import KINDS
from pynomaly_tasks.queueing.app import TASK_PREFIX
from pynomaly_tasks.tasks.job_task import JobTask


def job_task(kind: str | Kind) -> JobTask:
    """The task ``pynomaly.tasks.<name>``: of a kind of ours by its name, or of a kind of your own.

    It is made when it is first used: making it reads Celery's options, and with them the settings,
    which importing must not do.
    """
    if isinstance(kind, str):
        kind = KINDS[kind]
    else:
        add_kind(kind)
    if app.finalized:
        return _make(kind)
    # What Celery's own decorator does; it cannot be used, since it takes a function for the task.
    task = PromiseProxy(_make, (kind,), __doc__=kind.request_model.__doc__)
    app._pending.append(task)
    return cast("JobTask", task)


def _make(kind: Kind) -> JobTask:
    name = TASK_PREFIX + kind.name
    # Asking for the registered tasks makes all that are pending, this one perhaps among them.
    made: JobTask | None = app.tasks.get(name)
    if made is not None:
        return made
    attributes = {
        "name": name,
        "kind": kind,
        "__doc__": kind.request_model.__doc__,
        "__module__": "pynomaly_tasks.tasks",
    }
    task: JobTask = app.register_task(type(kind.name, (JobTask,), attributes)())
    return task
