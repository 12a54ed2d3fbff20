"""The usual `.delay()` on a short way; every other call goes Celery's.

Use it by name, with our `AMQP`: ``Celery(..., task_cls="pynomaly_tasks.transport.task:Task")``.
"""

from __future__ import annotations

from typing import Any

from celery.app import task

from pynomaly_tasks.transport.amqp import Producer
from pynomaly_tasks.transport.calls import Calls, are_alike
from pynomaly_tasks.transport.task_ids import task_ids

_ARGS, _KWARGS = (tuple, list, type(None)), (dict, type(None))


class Task(task.Task):  # type: ignore[misc]  # celery has no types
    """Celery's, with a short way for a call that says nothing but its arguments."""

    abstract = True
    _calls: Calls | None = None

    def apply_async(
        self, args: Any = None, kwargs: Any = None, task_id: str | None = None, producer: Any = None,
        link: Any = None, link_error: Any = None, shadow: str | None = None, **options: Any,
    ) -> Any:  # fmt: skip
        """Call the task; as Celery's."""
        if not (
            options or link or link_error or shadow
            or not isinstance(args, _ARGS) or not isinstance(kwargs, _KWARGS)
            or (producer is not None and type(producer) is not Producer)
        ):  # fmt: skip
            calls = self._calls
            if calls is not None and calls.hold():
                task_id = task_id or task_ids.next()
                if producer is None:
                    calls.send(task_id, args or (), kwargs or {})
                else:
                    calls.publish(producer, task_id, args or (), kwargs or {})
                return calls.result(task_id)
            if are_alike(self):
                with self.app.producer_or_acquire(producer) as producer:
                    calls, result = Calls.record(self, producer, task_id, args, kwargs, {})
                self._calls = None if calls.are_timed else calls
                return result
        return super().apply_async(args, kwargs, task_id, producer, link, link_error, shadow, **options)
