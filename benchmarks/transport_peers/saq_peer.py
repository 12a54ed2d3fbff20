"""saq on Redis; it always keeps results, here for a second."""

import asyncio
import sys
from typing import Any

from probe import ARGUMENT, REDIS_URL, ran
from redis import asyncio as redis
from saq.queue.redis import RedisQueue

# redis-py 8 would end its endless BLMOVE after 5 s, with an error and perhaps with a message.
queue = RedisQueue(redis.from_url(f"{REDIS_URL}/5", socket_timeout=None))
_loop: asyncio.AbstractEventLoop | None = None


async def noop(context: Any, *, argument: object) -> None:
    ran()


settings = {"queue": queue, "functions": [noop], "concurrency": 10}


def submit() -> None:
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
    _loop.run_until_complete(queue.enqueue("noop", argument=ARGUMENT, ttl=1))


WORKERS = [[sys.executable, "-m", "saq", "saq_peer.settings", "--workers", "2", "--quiet"]]
