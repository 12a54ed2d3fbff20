"""Do the message queues stay quick and small: 10,000 patterns, 100,000 fingerprints, 1,000,000 messages?

    python -m benchmarks.messaging_scale [--messages 1000000]

Patterns: one to five segments of 50 words, `*` and `#`; the time to find the subscribers of a topic. Fingerprints: as many
different messages sent within a window, and what each of them leaves in memory until it ends. Messages: through Redis, one
process that sends a hundred at once and one with a `Worker`; resident memory of both and what redis-server says it uses.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
from redis import Redis

from benchmarks import ROOT
from benchmarks.messaging_peers.systems import PAYLOAD
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.messaging import (
    Backend,
    Message,
    QueueManager,
    QueueOptions,
    TopicTrie,
    Worker,
    build_backend,
)

MIB = 2**20
AT_ONCE = 100
N_PATTERNS = 10_000
N_FINGERPRINTS = 100_000
#: The sender waits while more than this lie in the queue.
MOST_WAITING = 10_000
N_ROWS = 10


def patterns() -> None:
    chance = random.Random(7)
    words = [f"w{n}" for n in range(50)]
    trie: TopicTrie[int] = TopicTrie()
    for number in range(N_PATTERNS):
        trie.add(".".join(chance.choice([*words, "*", "#"]) for _ in range(chance.randint(1, 5))), number)
    took_s, n_found = [], 0
    for _ in range(5_000):
        topic = ".".join(chance.choices(words, k=4))
        started_s = time.perf_counter()
        found = trie.match(topic)
        took_s.append(time.perf_counter() - started_s)
        n_found += len(found)
    took_s.sort()
    print(
        f"{N_PATTERNS:,} patterns: p50 {took_s[2_500] * 1e3:.3f} ms, p99 {took_s[4_950] * 1e3:.3f} ms a topic, "
        f"which {n_found / 5_000:.0f} of them match on average\n"
    )


async def fingerprints(backend: Backend, used_bytes: psutil.Process | Redis) -> None:
    async with QueueManager(backend) as manager:
        await manager.create_queue("q", QueueOptions(deduplication_s=3_600.0))
        before = _used_bytes(used_bytes)
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        for number in range(0, N_FINGERPRINTS, AT_ONCE):
            await manager.send_many("q", list(range(number, number + AT_ONCE)))
            # Of the messages nothing shall be left, only of the fingerprints.
            await manager.purge_queue("q")
        wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
        left = _used_bytes(used_bytes) - before
        receipts = await manager.send_many("q", list(range(0, N_FINGERPRINTS, 1_000)))
        if not all(receipt.duplicates for receipt in receipts):
            raise SystemExit("a message that was sent before was sent again")
    print(
        f"{N_FINGERPRINTS:,} fingerprints, {backend.name}: {N_FINGERPRINTS / wall_s:,.0f} messages/s "
        f"({cpu_s / N_FINGERPRINTS * 1e6:.0f} us CPU), {left / MIB:.0f} MiB, {left / N_FINGERPRINTS:.0f} bytes each"
    )


def _used_bytes(of: psutil.Process | Redis) -> int:
    if isinstance(of, psutil.Process):
        return int(of.memory_info().rss)
    return int(of.info("memory")["used_memory"])


async def send(url: str, n_messages: int) -> None:
    async with QueueManager(build_backend("redis_streams", url)) as manager:
        for number in range(0, n_messages, AT_ONCE):
            if number % MOST_WAITING == 0:
                while (await manager.statistics("q")).measure.depth > MOST_WAITING:
                    await asyncio.sleep(0.05)
            await manager.send_many("q", [PAYLOAD] * AT_ONCE)
        await asyncio.Event().wait()  # until the parent has seen enough


async def work(url: str) -> None:
    async def handler(_: Message) -> None:
        """The work."""

    async with QueueManager(build_backend("redis_streams", url)) as manager:
        worker = Worker(manager, ["q"], concurrency=AT_ONCE, batch_size=AT_ONCE)
        worker.add_handler(handler)
        await worker.run()


async def flat(url: str, n_messages: int) -> None:
    async with QueueManager(build_backend("redis_streams", url)) as manager:
        await manager.create_queue("q")
        roles = [[sys.executable, "-m", "benchmarks.messaging_scale", role, url] for role in ("send", "work")]
        started_s = time.perf_counter()
        children = [subprocess.Popen([*role, "--messages", str(n_messages)], cwd=ROOT) for role in roles]
        try:
            print(
                "| messages | sender, MiB | worker, MiB | redis-server, MiB | messages/s |\n|---|---|---|---|---|"
            )
            for row in range(1, N_ROWS + 1):
                n_wanted = n_messages * row // N_ROWS
                while (n_done := (await manager.statistics("q")).measure.acknowledged) < n_wanted:
                    if any(child.poll() is not None for child in children):
                        raise SystemExit(f"a process ended after {n_done:,} messages")
                    await asyncio.sleep(0.05)
                sizes = [_used_bytes(psutil.Process(child.pid)) for child in children]
                with Redis.from_url(url) as redis:
                    sizes.append(_used_bytes(redis))
                cells = " | ".join(f"{size / MIB:.1f}" for size in sizes)
                rate = n_done / (time.perf_counter() - started_s)
                print(f"| {n_done:,} | {cells} | {rate:,.0f} |", flush=True)
        finally:
            for child in children:
                child.terminate()
            for child in children:
                child.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("role", nargs="?", choices=["send", "work"], help="used by the script itself")
    parser.add_argument("url", nargs="?", default="")
    parser.add_argument("--messages", type=int, default=1_000_000)
    options = parser.parse_args()
    if options.role == "send":
        asyncio.run(send(options.url, options.messages))
        return
    if options.role == "work":
        asyncio.run(work(options.url))
        return
    print(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, redis {version('redis')}.\n"
    )
    patterns()
    asyncio.run(fingerprints(build_backend("memory"), psutil.Process()))
    with tempfile.TemporaryDirectory() as directory, RedisServer(Path(directory)) as server:
        with server.client() as client:
            asyncio.run(fingerprints(build_backend("redis_streams", f"{server.url}/0"), client))
        print()
        asyncio.run(flat(f"{server.url}/1", options.messages))


if __name__ == "__main__":
    main()
