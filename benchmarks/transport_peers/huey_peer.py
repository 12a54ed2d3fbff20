"""huey on Redis, two processes, without results; a task is gone from Redis when it is taken."""

import sys

from huey import RedisHuey
from probe import ARGUMENT, REDIS_URL, ran

huey = RedisHuey("bench", url=f"{REDIS_URL}/7", results=False)


@huey.task()
def noop(argument: object) -> None:
    ran()


def submit() -> None:
    noop(ARGUMENT)


WORKERS = [
    [sys.executable, "-m", "huey.bin.huey_consumer", "huey_peer.huey", "-w", "2", "-k", "process", "-q"]
]
