"""A process that consumes: `python queue_consumer.py <backend> <url> <namespace> <queue> <file> <mode>`.

hold: takes a batch, says so, and never settles. work: appends each message's number and attempt to the file, then
acknowledges, until it is told to stop. worker:0.01: a `Worker` whose handler takes so many seconds.
"""

from __future__ import annotations

import asyncio
import os
import sys

from pynomaly_tasks.errors import BrokerUnavailable, LeaseLost
from pynomaly_tasks.messaging import Message, QueueManager, Worker, build_backend


async def main(backend: str, url: str, namespace: str, queue: str, file: str, mode: str) -> None:
    effects = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    built = build_backend(backend, url, namespace=namespace, timeout_s=3.0)
    async with QueueManager(built) as manager:
        print("ready", flush=True)
        if mode.startswith("worker"):
            await serve(manager, queue, effects, float(mode.partition(":")[2]))
            return
        while True:
            try:
                deliveries = await manager.receive(queue, max_messages=20, wait_s=5.0)
                if mode == "hold":
                    print(f"holds {len(deliveries)}", flush=True)
                    await asyncio.Event().wait()
                for delivery in deliveries:
                    os.write(effects, f"{delivery.message.payload}:{delivery.attempt}\n".encode())
                    await delivery.ack()
            except (BrokerUnavailable, LeaseLost) as error:
                print(f"away {error}", flush=True)
                await asyncio.sleep(0.1)


async def serve(manager: QueueManager, queue: str, effects: int, takes_s: float) -> None:
    async def work(message: Message) -> None:
        print(f"started {message.payload}", flush=True)
        await asyncio.sleep(takes_s)
        os.write(effects, f"{message.payload}:1\n".encode())

    worker = Worker(manager, [queue], concurrency=3, batch_size=5)
    worker.add_handler(work)
    await worker.run()
    print(worker.statistics, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
