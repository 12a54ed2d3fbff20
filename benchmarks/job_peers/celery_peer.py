"""Plain Celery with results, late acknowledgement and prefetch 1: the settings of the platform's app."""

import sys

from celery import Celery, group
from common import REDIS_URL, count

app = Celery("celery_peer", broker=f"{REDIS_URL}/1", backend=f"{REDIS_URL}/2")
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    worker_send_task_events=True,
)


@app.task(name="noop")
def noop() -> None:
    count()


def submit() -> None:
    noop.delay()


def submit_many(n_jobs: int) -> None:
    group(noop.s() for _ in range(n_jobs)).apply_async()


WORKERS = [[sys.executable, "-m", "celery", "-A", "celery_peer", "worker", "-c", "2", "-l", "ERROR"]]
