"""taskiq on Redis lists, without results."""

import asyncio
import sys

from probe import ARGUMENT, REDIS_URL, ran
from taskiq_redis import ListQueueBroker

# redis-py 8 would end its endless BRPOP after 5 s, with an error and perhaps with a message.
broker = ListQueueBroker(f"{REDIS_URL}/4", socket_timeout=None)
_loop: asyncio.AbstractEventLoop | None = None


@broker.task
async def noop(argument: object) -> None:
    ran()


def submit() -> None:
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
        _loop.run_until_complete(broker.startup())
    _loop.run_until_complete(noop.kiq(ARGUMENT))


WORKERS = [
    [sys.executable, "-m", "taskiq", "worker", "taskiq_peer:broker", "--workers", "2", "--log-level", "ERROR"]
]
