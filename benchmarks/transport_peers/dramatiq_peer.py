"""dramatiq on Redis, without results (its default)."""

import json
import os
import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from probe import ARGUMENT, REDIS_URL, ran

dramatiq.set_broker(RedisBroker(url=f"{REDIS_URL}/3"))
n_processes, n_threads = json.loads(os.environ["BENCH_POOL"])


@dramatiq.actor
def noop(argument: object) -> None:
    ran()


def submit() -> None:
    noop.send(ARGUMENT)


WORKERS = [
    [sys.executable, "-m", "dramatiq", "dramatiq_peer", "--processes", str(n_processes),
     "--threads", str(n_threads)]
]  # fmt: skip
