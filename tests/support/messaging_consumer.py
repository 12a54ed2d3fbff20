"""A process that consumes: `python messaging_consumer.py <url> <namespace> <queue> <done key> <mode>`.

hold: takes a batch, says so, and never settles. work: adds each message's number to the set <done key>
on the server, then acknowledges, until it is told to stop. worker: a `Worker` whose handler takes half a second,
or with worker:0.01 so many seconds.
"""

from __future__ import annotations

import asyncio
import sys

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.messaging import Message, QueueManager, Worker
from pynomaly_tasks.messaging.backends.redis_streams.backend import RedisStreamsBackend


async def main(url: str, namespace: str, queue: str, done: str, mode: str) -> None:
    effects = Redis.from_url(url, retry=Retry(NoBackoff(), 0))
    async with QueueManager(RedisStreamsBackend(url, namespace=namespace, timeout_s=2.0)) as manager:
        print("ready", flush=True)
        if mode.startswith("worker"):
            await serve(manager, queue, effects, done, float(mode.partition(":")[2] or 0.5))
            return
        while True:
            try:
                deliveries = await manager.receive(queue, max_messages=20, wait_s=5.0)
                if mode == "hold":
                    print(f"holds {len(deliveries)}", flush=True)
                    await asyncio.Event().wait()
                for delivery in deliveries:
                    await effects.rpush(done, f"{delivery.message.payload}:{delivery.attempt}")
                    await delivery.ack()
            except (BrokerUnavailable, RedisError) as error:
                print(f"away {error}", flush=True)
                await asyncio.sleep(0.1)


async def serve(manager: QueueManager, queue: str, effects: Redis, done: str, takes_s: float) -> None:
    async def work(message: Message) -> None:
        print(f"started {message.payload}", flush=True)
        await asyncio.sleep(takes_s)
        await effects.rpush(done, f"{message.payload}:1")

    worker = Worker(manager, [queue], concurrency=3, batch_size=5)
    worker.add_handler(work)
    await worker.run()
    print(worker.statistics, flush=True)
    await effects.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
