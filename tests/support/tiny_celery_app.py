"""A Celery app of the tests' own: shows what plain Celery does, where the platform's app has protections."""

from __future__ import annotations

import os

import redis
from celery import Celery

app = Celery("tiny", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_RESULT_BACKEND"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_transport_options={"visibility_timeout": 1},
    broker_connection_retry_on_startup=True,
)


@app.task(name="tiny.add")
def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


@app.task(name="tiny.wait_for")
def wait_for(key: str) -> int:
    """Count this start under ``<key>:starts``, wait for a value in the list ``key``, return the count."""
    with redis.Redis.from_url(os.environ["CELERY_RESULT_BACKEND"]) as client:
        n_starts = int(client.incr(f"{key}:starts"))
        client.blpop([key], timeout=60)
    return n_starts
