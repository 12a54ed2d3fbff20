"""The limit: redis-py alone, one reliable take and one acknowledgement at a time, two processes."""

import json
import sys

import redis
from probe import ARGUMENT, REDIS_URL, ran

client = redis.Redis.from_url(f"{REDIS_URL}/8", socket_timeout=None)


def submit() -> None:
    client.lpush("queue", json.dumps(ARGUMENT))


def submit_many(n_tasks: int) -> None:
    for start in range(0, n_tasks, 500):
        with client.pipeline(transaction=False) as pipeline:
            for _ in range(min(500, n_tasks - start)):
                pipeline.lpush("queue", json.dumps(ARGUMENT))
            pipeline.execute()


def work() -> None:
    while True:
        message = client.blmove("queue", "taken", 0, "RIGHT", "LEFT")
        json.loads(message)
        ran()
        client.lrem("taken", 1, message)


WORKERS = [[sys.executable, "-c", "import bare_peer; bare_peer.work()"]] * 2
