"""From a kind of job to the Celery task that submits and runs it."""

from __future__ import annotations

from typing import cast

from celery.local import PromiseProxy

from pynomaly_tasks.bootstrap import app
from pynomaly_tasks.kinds import KINDS
from pynomaly_tasks.queueing.app import TASK_PREFIX
from pynomaly_tasks.tasks.job_task import JobTask


def job_task(name: str) -> JobTask:
    """The task ``pynomaly.tasks.<name>``, made when it is first used.

    Making it reads Celery's options, and with them the settings, which importing must not do.
    """
    if app.finalized:
        return _make(name)
    # What Celery's own decorator does; it cannot be used, since it takes a function for the task.
    task = PromiseProxy(_make, (name,), __doc__=KINDS[name].request_model.__doc__)
    app._pending.append(task)
    return cast("JobTask", task)


def _make(name: str) -> JobTask:
    kind = KINDS[name]
    task: JobTask = app.register_task(
        type(
            name,
            (JobTask,),
            {
                "name": TASK_PREFIX + name,
                "kind": kind,
                "__doc__": kind.request_model.__doc__,
                "__module__": "pynomaly_tasks.tasks",
            },
        )()
    )
    return task
