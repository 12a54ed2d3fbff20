"""Thousands of calls of one task, published together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from celery.app import task as celery_task

from pynomaly_tasks.transport.amqp import Producer
from pynomaly_tasks.transport.calls import Calls, are_alike
from pynomaly_tasks.transport.task import Task
from pynomaly_tasks.transport.task_ids import task_ids

#: Calls in one round trip.
BATCH_SIZE = 500
#: Options of `apply_async` that are the same for each call.
_ALIKE = frozenset({"queue", "priority", "countdown", "eta", "expires", "time_limit", "soft_time_limit"})


def send_many(
    task: Any, calls: Iterable[tuple[Sequence[Any], Mapping[str, Any]]], **options: Any
) -> list[str]:
    """Call ``task`` for each (args, kwargs), and return the ids of the calls, in order.

    Does what ``task.apply_async(args, kwargs, **options)`` would do for each, 500 in a round trip. What is
    the same for all calls is worked out once, unless something may want to see each call: a receiver of a
    publish signal, `task_send_sent_event`, a router function, a task with an `apply_async` of its own,
    other options than those for queue, priority and times, a calling task, an app without our `AMQP`.

    Raises what `apply_async` raises. After kombu's `BatchPublishError`, earlier batches are in the queue,
    and of the last one none, some or all.
    """
    producer = options.pop("producer", None)
    ids: list[str] = []
    with task.app.producer_or_acquire(producer) as producer, producer.batch(BATCH_SIZE):
        if not _are_alike(task, producer, options):
            return [
                task.apply_async(tuple(args), dict(kwargs), producer=producer, **options).id
                for args, kwargs in calls
            ]
        same: Calls | None = None
        for args, kwargs in calls:
            task_id = task_ids.next()
            if same is None:
                same, _ = Calls.record(task, producer, task_id, tuple(args), dict(kwargs), options)
            else:
                same.publish(producer, task_id, tuple(args), dict(kwargs))
            ids.append(task_id)
    return ids


def _are_alike(task: Any, producer: Any, options: Mapping[str, Any]) -> bool:
    return (
        task.__class__.apply_async in (celery_task.Task.apply_async, Task.apply_async)
        and type(producer) is Producer
        and options.keys() <= _ALIKE
        and are_alike(task)
    )
