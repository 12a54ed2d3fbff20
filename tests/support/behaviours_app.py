"""A plain Celery application on our transport, with a task for each behaviour of Celery that tests look at."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import redis
from celery import Celery
from celery.exceptions import Reject
from kombu import Exchange, Queue
from kombu.common import Broadcast

app = Celery(
    "behaviours",
    broker=os.environ["BEHAVIOURS_BROKER"],
    backend=os.environ["BEHAVIOURS_RESULTS"],
)
app.conf.update(
    broker_transport="pynomaly_tasks.transport:Transport",
    broker_transport_options={"lease_s": float(os.environ.get("BEHAVIOURS_LEASE_S", "20"))},
    worker_consumer="pynomaly_tasks.transport.consumer:Consumer",
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_prefetch_multiplier=2,
    worker_send_task_events=True,
    task_send_sent_event=True,
    task_track_started=True,
    result_extended=True,
    result_chord_retry_interval=0.1,
    task_queues=[
        Queue("celery", Exchange("celery"), routing_key="celery"),
        Broadcast("everybody", queue_arguments={"x-expires": 60_000}),
    ],
    task_create_missing_queues=True,
    beat_schedule={"tick": {"task": "count", "schedule": 0.5, "args": ("ticks",)}},
    beat_max_loop_interval=0.5,
)

_client: redis.Redis | None = None


def notes() -> redis.Redis:
    """Where tasks write what they did; one client a process."""
    global _client
    if _client is None:
        _client = redis.Redis.from_url(os.environ["BEHAVIOURS_NOTES"], socket_timeout=None)
    return _client


@app.task(name="add")
def add(x: int, y: int) -> int:
    """Their sum."""
    return x + y


@app.task(name="total")
def total(numbers: list[int]) -> int:
    """The sum of all."""
    return sum(numbers)


@app.task(name="count")
def count(key: str) -> None:
    """One more under this key."""
    notes().incr(key)


@app.task(name="fail")
def fail(*_: object) -> None:
    """Raise."""
    raise LookupError("on purpose")


@app.task(name="note_error", ignore_result=True)
def note_error(request: Any, error: BaseException, _: object, key: str) -> None:
    """An error callback: writes what it was called with."""
    notes().rpush(key, type(error).__name__)


@app.task(name="retry_until", bind=True, max_retries=3, default_retry_delay=0.1)
def retry_until(self: Any, needed: int) -> int:
    """Try again until so many tries were made; returns how many it took."""
    if self.request.retries < needed:
        raise self.retry(exc=LookupError(f"try {self.request.retries}"))
    return int(self.request.retries)


@app.task(name="retry_by_itself", bind=True, autoretry_for=(LookupError,), retry_backoff=False,
          retry_kwargs={"max_retries": 2, "countdown": 0.1})  # fmt: skip
def retry_by_itself(self: Any, key: str) -> None:
    """Fails every time."""
    notes().incr(key)
    raise LookupError("every time")


def _wait(key: str) -> None:
    notes().incr(f"{key}-starts")
    if notes().blpop([f"{key}-gate"], timeout=60) is None:
        raise TimeoutError(f"nobody opened {key}-gate")
    notes().incr(f"{key}-ends")


@app.task(name="wait_early", acks_late=False)
def wait_early(key: str) -> None:
    """Count a start, wait for the gate, count an end; acknowledged before it starts."""
    _wait(key)


@app.task(name="wait_late", acks_late=True)
def wait_late(key: str) -> None:
    """The same, acknowledged when it is done."""
    _wait(key)


@app.task(name="die_once", acks_late=True, reject_on_worker_lost=True, bind=True)
def die_once(self: Any) -> bool:
    """The first child that runs it is killed; returns whether it was redelivered."""
    redelivered = bool(self.request.delivery_info["redelivered"])
    if not redelivered:
        os.kill(os.getpid(), signal.SIGKILL)
    return redelivered


@app.task(name="refuse", acks_late=True, bind=True)
def refuse(self: Any, requeue: bool) -> bool:
    """Reject the first delivery, with or without putting it back."""
    redelivered = bool(self.request.delivery_info["redelivered"])
    if not redelivered:
        raise Reject("on purpose", requeue=requeue)
    return redelivered


@app.task(name="fail_unacknowledged", acks_late=True, acks_on_failure_or_timeout=False)
def fail_unacknowledged() -> None:
    """Fails, and its message is rejected for it."""
    raise LookupError("on purpose")


@app.task(name="too_long", acks_late=True, time_limit=1)
def too_long() -> None:
    """Is stopped by its time limit."""
    time.sleep(60)


@app.task(name="process_id")
def process_id() -> int:
    """Of the child that ran it."""
    return os.getpid()
