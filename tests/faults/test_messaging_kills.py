"""Consumers of a message queue die by SIGKILL under a counted load, again and again: nothing is lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.messaging import Measure, QueueManager, QueueOptions
from pynomaly_tasks.messaging.backends.redis_streams.backend import RedisStreamsBackend
from support.processes import Program, Programs
from support.waiting import wait_until

CONSUMER = Path(__file__).parents[1] / "support" / "messaging_consumer.py"
N_CONSUMERS = 2


def _kill_again_and_again(
    server: RedisServer, programs: Programs, *, n_messages: int, n_kills: int, seed: int
) -> None:
    chance = random.Random(seed)

    async def fill() -> None:
        async with QueueManager(RedisStreamsBackend(f"{server.url}/0", namespace="kills")) as manager:
            # Each kill is a try of what was held.
            options = QueueOptions(lease_s=1.0, retry=RetryPolicy(max_retries=n_kills))
            await manager.create_queue("q", options)
            await manager.send_many("q", list(range(n_messages)))

    async def measured() -> tuple[Measure, int]:
        async with QueueManager(RedisStreamsBackend(f"{server.url}/0", namespace="kills")) as manager:
            found = await manager.statistics("q")
            return found.measure, found.n_dead_letters

    def start() -> Program:
        return programs.python(
            CONSUMER, f"{server.url}/0", "kills", "q", "done", "work",
            ready="^ready", env={"PYTHONPATH": str(CONSUMER.parents[2])},
        )  # fmt: skip

    def numbers() -> Counter[int]:
        with server.client() as client:
            return Counter(int(each.split(b":")[0]) for each in client.lrange("done", 0, -1))

    asyncio.run(fill())
    consumers = [start() for _ in range(N_CONSUMERS)]
    n_effective = 0
    for kill in range(n_kills):
        target = (kill + 1) * n_messages // (n_kills + 1)
        wait_until(lambda target=target: len(numbers()) >= target, 60.0, f"{target} messages to be done")
        at = chance.randrange(N_CONSUMERS)
        n_effective += consumers[at].is_running()
        consumers[at].kill()
        consumers[at] = start()
    wait_until(lambda: len(numbers()) == n_messages, 60.0, f"all {n_messages} to be done (seed {seed})")
    wait_until(lambda: asyncio.run(measured())[0].depth == 0, 30.0, "the queue to be empty")
    done, (measure, n_dead) = numbers(), asyncio.run(measured())
    n_twice = sum(times > 1 for times in done.values())

    assert n_effective == n_kills
    assert set(done) == set(range(n_messages))
    assert (measure.acknowledged, measure.failed, n_dead) == (n_messages, 0, 0)
    # Between the effect and its acknowledgement there is one message at a time.
    assert n_twice <= n_kills
    print(f"seed {seed}: {n_kills} kills, {n_messages} messages, 0 lost, {n_twice} with two effects")


def test_killed_consumers_lose_no_message(own_redis: RedisServer, programs: Programs) -> None:
    _kill_again_and_again(own_redis, programs, n_messages=1_500, n_kills=4, seed=random.randrange(10**6))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_killed_consumers_lose_no_message(own_redis: RedisServer, programs: Programs) -> None:
    _kill_again_and_again(own_redis, programs, n_messages=30_000, n_kills=60, seed=random.randrange(10**6))
