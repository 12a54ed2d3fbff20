"""taskiq on Redis lists with its Redis results."""

import asyncio
import sys

from common import REDIS_URL, count
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

broker = ListQueueBroker(f"{REDIS_URL}/4").with_result_backend(
    RedisAsyncResultBackend(f"{REDIS_URL}/5", result_ex_time=3_600)
)
_loop: asyncio.AbstractEventLoop | None = None


@broker.task
async def noop() -> None:
    count()


def submit() -> None:
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
        _loop.run_until_complete(broker.startup())
    _loop.run_until_complete(noop.kiq())


submit_many = None  # it has no call for many
WORKERS = [
    [sys.executable, "-m", "taskiq", "worker", "taskiq_peer:broker", "--workers", "2", "--log-level", "ERROR"]
]
