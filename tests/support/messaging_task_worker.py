"""A process that runs tasks: `python messaging_task_worker.py <url> <namespace>`.

``export`` notes that it ran; ``import`` holds its first attempt for ever, and ends the later ones.
"""

from __future__ import annotations

import asyncio
import sys

from redis.asyncio import Redis

from pynomaly_tasks.messaging import QueueManager
from pynomaly_tasks.messaging.backends.redis_streams.backend import RedisStreamsBackend
from pynomaly_tasks.messaging.tasks import TaskContext, Tasks, TaskWorker


async def main(url: str, namespace: str) -> None:
    redis = Redis.from_url(url)

    async def export(context: TaskContext) -> int:
        context.progress(context.attempt, 1, "noting")
        await redis.rpush("done", f"{context.task_id}:{context.attempt}")
        return context.attempt

    async def hold(context: TaskContext) -> int:
        await redis.rpush("begun", f"{context.task_id}:{context.attempt}")
        if context.attempt == 1:
            await asyncio.Event().wait()
        return context.attempt

    async with QueueManager(RedisStreamsBackend(url, namespace=namespace)) as manager:
        tasks = Tasks(manager, lease_s=1.0)
        tasks.add_handler("export", export)
        tasks.add_handler("import", hold)
        print("ready", flush=True)
        await TaskWorker(tasks, concurrency=3, beat_s=0.1).run()
    await redis.aclose()


asyncio.run(main(*sys.argv[1:]))
