"""rq, two worker processes that fork for each job (its default)."""

import sys

from common import REDIS_URL, count
from redis import Redis
from rq import Queue

queue = Queue(connection=Redis.from_url(f"{REDIS_URL}/6"))


def noop() -> None:
    count()


def submit() -> None:
    queue.enqueue(noop)


def submit_many(n_jobs: int) -> None:
    queue.enqueue_many([Queue.prepare_data(noop) for _ in range(n_jobs)])


WORKERS = [[sys.executable, "-m", "rq.cli", "worker", "--url", f"{REDIS_URL}/6", "--quiet"]] * 2
