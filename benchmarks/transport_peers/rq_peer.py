"""rq, two worker processes that fork for each job (its default)."""

import sys

from probe import ARGUMENT, REDIS_URL, ran
from redis import Redis
from rq import Queue

queue = Queue(connection=Redis.from_url(f"{REDIS_URL}/6"))


def noop(argument: object) -> None:
    ran()


def submit() -> None:
    queue.enqueue(noop, ARGUMENT, result_ttl=0)


def submit_many(n_tasks: int) -> None:
    queue.enqueue_many([Queue.prepare_data(noop, (ARGUMENT,), result_ttl=0) for _ in range(n_tasks)])


WORKERS = [[sys.executable, "-m", "rq.cli", "worker", "--url", f"{REDIS_URL}/6", "--quiet"]] * 2
