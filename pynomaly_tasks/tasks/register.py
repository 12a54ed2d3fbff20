"""From a kind of job to the Celery task that submits and runs it."""

from __future__ import annotations

from pynomaly_tasks.bootstrap import app
from pynomaly_tasks.kinds import KINDS
from pynomaly_tasks.queueing.app import TASK_PREFIX
from pynomaly_tasks.tasks.job_task import JobTask


def job_task(name: str) -> JobTask:
    """The task ``pynomaly.tasks.<name>``."""
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
