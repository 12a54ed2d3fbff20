"""From a kind of job to the Celery task that submits and runs it."""

from __future__ import annotations

from pynomaly_tasks.bootstrap import add_kind, app
from pynomaly_tasks.jobs.context import Kind
from pynomaly_tasks.kinds import KINDS
from pynomaly_tasks.queueing.app import TASK_PREFIX
from pynomaly_tasks.tasks.job_task import JobTask


def job_task(kind: str | Kind) -> JobTask:
    """The task ``pynomaly.tasks.<name>``: of a kind of ours by its name, or of a kind of your own."""
    if isinstance(kind, str):
        kind = KINDS[kind]
    else:
        add_kind(kind)
    name = kind.name
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
