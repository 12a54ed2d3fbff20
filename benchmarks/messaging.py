"""What the message queues cost beside the bare client library that they stand on.

    python -m benchmarks.messaging [--messages 2000]

Bare: redis-py sends the same Lua steps with the same arguments, made beforehand, and reads the same
answers; what is measured is our Python above it. Small blocks of all variants in turn, many rounds; the
rate of the best block, which the machine's other work disturbed least.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.messaging import Message, QueueManager, QueueOptions, TopicTrie, build_backend
from pynomaly_tasks.messaging.backends.redis_streams import _SCRIPTS

PAYLOAD = {"customer": 7, "items": [{"sku": "a-1", "n": 2}, {"sku": "b-2", "n": 1}], "note": "x" * 200}
BATCH = 100


async def seconds(action: Callable[[], Awaitable[Any]]) -> float:
    started = time.perf_counter()
    await action()
    return time.perf_counter() - started


class Bare:
    """redis-py, the same scripts."""

    def __init__(self, url: str, namespace: str) -> None:
        self.redis = Redis.from_url(url)
        self.namespace = namespace

    async def load(self) -> None:
        for name in ("put", "take", "settle"):
            await self.redis.script_load(_SCRIPTS[name][0])

    def run(self, step: str, *arguments: Any) -> Awaitable[Any]:
        return self.redis.evalsha(_SCRIPTS[step][1], 1, self.namespace, *arguments)


async def one_by_one(
    manager: QueueManager, bare: Bare, body: bytes, version: int, n: int
) -> dict[str, float]:
    async def send() -> None:
        for _ in range(n):
            await manager.send("q", PAYLOAD)

    async def receive() -> None:
        for _ in range(n):
            (delivery,) = await manager.receive("q")
            await delivery.ack()

    async def bare_send() -> None:
        for at in range(n):
            await bare.run(
                "put", version, "q", f"00000000-0000-7000-8000-{at:012}", body, 0, 0, "", "", 0, ""
            )

    async def bare_receive() -> None:
        for _ in range(n):
            answer = await bare.run("take", version, "q", "me", 1, 30_000, 0)
            await bare.run("settle", "me", "q", answer[1], answer[5], "acknowledged", 10, "", "", 0, 0)

    return {
        "send": await seconds(send),
        "receive and ack": await seconds(receive),
        "bare send": await seconds(bare_send),
        "bare receive and ack": await seconds(bare_receive),
    }


async def batched(manager: QueueManager, bare: Bare, body: bytes, version: int, n: int) -> dict[str, float]:
    async def send() -> None:
        for _ in range(n // BATCH):
            await manager.send_many("q", [PAYLOAD] * BATCH)

    async def receive() -> None:
        for _ in range(n // BATCH):
            deliveries = await manager.receive("q", max_messages=BATCH)
            await asyncio.gather(*(delivery.ack() for delivery in deliveries))

    async def bare_send() -> None:
        for at in range(n // BATCH):
            arguments: list[Any] = []
            for number in range(BATCH):
                arguments += [
                    "q",
                    f"00000000-0000-7000-8000-{at * BATCH + number:012}",
                    body,
                    0,
                    0,
                    "",
                    "",
                    0,
                    "",
                ]
            await bare.run("put", version, *arguments)

    async def bare_receive() -> None:
        for _ in range(n // BATCH):
            answer = await bare.run("take", version, "q", "me", BATCH, 30_000, 0)
            await asyncio.gather(
                *(
                    bare.run(
                        "settle", "me", "q", answer[at], answer[at + 4], "acknowledged", 10, "", "", 0, 0
                    )
                    for at in range(1, len(answer), 6)
                )
            )

    return {
        "send": await seconds(send),
        "receive and ack": await seconds(receive),
        "bare send": await seconds(bare_send),
        "bare receive and ack": await seconds(bare_receive),
    }


async def rates(url: str, n: int) -> None:
    bare = Bare(url, "bench")
    async with QueueManager(build_backend("redis_streams", url, namespace="bench")) as manager:
        await manager.create_queue("q")
        await bare.load()
        codec = manager._session.codec
        body = codec.encode(Message(payload=PAYLOAD), codec.canonical(PAYLOAD))
        version = (await manager.backend.read_catalog()).version
        for name, measure, block in (
            ("one by one", one_by_one, 50),
            (f"{BATCH} at once", batched, 5 * BATCH),
        ):
            rounds = [await measure(manager, bare, body, version, block) for _ in range(max(5, n // 50))]
            for what in ("send", "receive and ack"):
                ours = min(each[what] for each in rounds)
                theirs = min(each[f"bare {what}"] for each in rounds)
                middle = statistics.median(each[f"bare {what}"] / each[what] for each in rounds)
                print(
                    f"redis_streams  {what:16} {name:12} {block / ours:8,.0f}/s  bare {block / theirs:8,.0f}/s"
                    f"  {theirs / ours:6.0%} (median of rounds {middle:.0%})"
                )
    await bare.redis.aclose()
    async with QueueManager(build_backend("memory")) as manager:
        await manager.create_queue("q")

        async def send() -> None:
            for _ in range(n):
                await manager.send("q", PAYLOAD)

        async def receive() -> None:
            for _ in range(n):
                (delivery,) = await manager.receive("q")
                await delivery.ack()

        for what, action in (("send", send), ("receive and ack", receive)):
            print(f"memory         {what:16} one by one   {n / await seconds(action):8,.0f}/s")


async def latency(url: str, n: int) -> None:
    async with (
        QueueManager(build_backend("redis_streams", url, namespace="latency")) as producer,
        QueueManager(build_backend("redis_streams", url, namespace="latency")) as consumer,
    ):
        await producer.create_queue("q")
        took = []
        for _ in range(n):
            waiting = asyncio.create_task(consumer.receive("q", wait_s=5.0))
            await asyncio.sleep(0.005)
            started = time.perf_counter()
            await producer.send("q", PAYLOAD)
            (delivery,) = await waiting
            took.append(time.perf_counter() - started)
            await delivery.ack()
    took.sort()
    print(
        f"redis_streams  send to a waiting consumer: p50 {took[n // 2] * 1e3:.2f} ms, p99 {took[n * 99 // 100] * 1e3:.2f} ms"
    )


async def flat_memory(url: str, n: int) -> None:
    async with QueueManager(build_backend("redis_streams", url, namespace="flat")) as manager:
        await manager.create_queue("q", QueueOptions(deduplication_s=3_600.0))
        server = Redis.from_url(url)

        async def sizes() -> tuple[float, float]:
            used = (await server.info("memory"))["used_memory"]
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, used / 2**20

        started = time.perf_counter()
        for number in range(0, 100_000, BATCH):
            await manager.send_many("q", list(range(number, number + BATCH)))
        print(
            f"deduplication: 100,000 fingerprints in {time.perf_counter() - started:.1f} s, server {(await sizes())[1]:.0f} MiB"
        )
        receipt = await manager.send("q", 50_000)
        assert receipt.duplicates == ("q",)
        await manager.purge_queue("q")
        await manager.create_queue("r")
        for done in range(0, n, n // 4):
            for _ in range(n // 4 // BATCH):
                await manager.send_many("r", [PAYLOAD] * BATCH)
                for delivery in await manager.receive("r", max_messages=BATCH):
                    await delivery.ack()
            ours, servers = await sizes()
            print(
                f"memory after {done + n // 4:>9,} messages: process {ours:.0f} MiB at most, server {servers:.0f} MiB"
            )
        await server.aclose()


def patterns() -> None:
    import random

    chance = random.Random(7)
    words = [f"w{n}" for n in range(50)]
    trie: TopicTrie[int] = TopicTrie()
    for number in range(10_000):
        trie.add(".".join(chance.choice([*words, "*", "#"]) for _ in range(chance.randint(1, 5))), number)
    topics = [".".join(chance.choices(words, k=4)) for _ in range(2_000)]
    took = []
    for topic in topics:
        started = time.perf_counter()
        trie.match(topic)
        took.append(time.perf_counter() - started)
    took.sort()
    print(f"10,000 patterns: p50 {took[1_000] * 1e3:.3f} ms, p99 {took[1_980] * 1e3:.3f} ms a topic")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=2_000)
    n = parser.parse_args().messages
    patterns()
    with tempfile.TemporaryDirectory() as directory, RedisServer(Path(directory)) as server:
        asyncio.run(rates(f"{server.url}/0", n))
        asyncio.run(latency(f"{server.url}/0", 300))
        asyncio.run(flat_memory(f"{server.url}/0", 20 * n))


if __name__ == "__main__":
    main()
