"""Tasks over message queues, for those without Celery: submit, watch, cancel, schedule, chain.

`Tasks` submits and answers for them; `TaskWorker` runs the handlers. Everything is kept on the
messaging broker; nothing else of the platform is needed.
"""

from pynomaly_tasks.messaging.task_records import TaskState
from pynomaly_tasks.messaging.tasks.context import TaskContext
from pynomaly_tasks.messaging.tasks.task import Task, TaskError, TaskProgress, TaskType
from pynomaly_tasks.messaging.tasks.tasks import Tasks
from pynomaly_tasks.messaging.tasks.worker import TaskWorker

__all__ = [
    "Task",
    "TaskContext",
    "TaskError",
    "TaskProgress",
    "TaskState",
    "TaskType",
    "TaskWorker",
    "Tasks",
]
