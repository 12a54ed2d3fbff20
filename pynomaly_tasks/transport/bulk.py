"""Thousands of calls of one task, published together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from celery import Task, signals
from celery.app.routes import MapRoute
from kombu.utils.uuid import uuid

from pynomaly_tasks.transport.amqp import AMQP, Producer
from pynomaly_tasks.transport.channel import Reserving

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
    with task.app.producer_or_acquire(producer) as producer, producer.batch(BATCH_SIZE):
        if _are_alike(task, producer, options):
            return _send_alike(task, producer, calls, options)
        return [
            task.apply_async(tuple(args), dict(kwargs), producer=producer, **options).id
            for args, kwargs in calls
        ]


def _are_alike(task: Any, producer: Any, options: Mapping[str, Any]) -> bool:
    # A task that was not used yet stands behind a proxy, which only tells the class.
    app, of_type = task.app, task.__class__
    return (
        isinstance(app.amqp, AMQP)
        and app.conf.task_protocol == 2
        and type(producer) is Producer
        and isinstance(producer.channel, Reserving)
        and of_type.apply_async is Task.apply_async
        and of_type.shadow_name is Task.shadow_name
        and task._dump_pydantic_arguments is None
        and options.keys() <= _ALIKE
        and not any(
            signal.receivers
            for signal in (signals.before_task_publish, signals.after_task_publish, signals.task_sent)
        )
        and not (app.conf.task_always_eager or app.conf.task_send_sent_event or app.current_worker_task)
        and all(isinstance(route, MapRoute) for route in app.amqp.routes)
    )


class _Recorder(Producer):
    """Keeps what Celery would publish."""

    body: Any = None
    options: Mapping[str, Any]

    def publish(self, body: Any, routing_key: str | None = None, *args: Any, **options: Any) -> None:
        self.body, self.options = body, dict(options, routing_key=routing_key)


def _send_alike(
    task: Any,
    producer: Any,
    calls: Iterable[tuple[Sequence[Any], Mapping[str, Any]]],
    options: Mapping[str, Any],
) -> list[str]:
    amqp, backend = task.app.amqp, task.backend
    check = getattr(task, "__header__", None) if task.typing else None
    recorder = _Recorder(producer.connection, auto_declare=False)
    ids: list[str] = []
    for args, kwargs in calls:
        task_id = uuid()
        if not ids:
            task.apply_async(tuple(args), dict(kwargs), task_id=task_id, producer=recorder, **options)
            embed, same = recorder.body[2], recorder.options["headers"]
        else:
            if check is not None:
                check(*args, **kwargs)
            if not same["ignore_result"]:
                backend.on_task_call(producer, task_id)
        argsrepr, kwargsrepr = amqp.describe(tuple(args), dict(kwargs))
        headers = dict(same, id=task_id, root_id=task_id, argsrepr=argsrepr, kwargsrepr=kwargsrepr)
        producer.publish(
            (args, kwargs, embed), **dict(recorder.options, headers=headers, correlation_id=task_id)
        )
        ids.append(task_id)
    return ids
