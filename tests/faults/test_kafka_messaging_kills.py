"""Consumers of a queue on Kafka die by SIGKILL under a counted load, again and again: nothing is lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.messaging import QueueManager, QueueOptions, build_backend
from support.kafka import KafkaNode
from support.kafka_topics import unique_name
from support.processes import Program, Programs
from support.waiting import wait_until

CONSUMER = Path(__file__).parents[1] / "support" / "queue_consumer.py"
N_CONSUMERS = 2


def _kill_again_and_again(
    node: KafkaNode, programs: Programs, directory: Path, *, n_messages: int, n_kills: int, seed: int
) -> None:
    chance = random.Random(seed)
    namespace, url, file = unique_name("kills"), f"kafka://{node.bootstrap}", directory / "done"
    file.touch()

    async def fill() -> None:
        async with QueueManager(build_backend("kafka", url, namespace=namespace)) as manager:
            # Each kill is a try of what was held.
            options = QueueOptions(lease_s=1.0, retry=RetryPolicy(max_retries=n_kills))
            await manager.create_queue("q", options)
            await manager.send_many("q", list(range(n_messages)))

    async def left() -> tuple[int, int]:
        async with QueueManager(build_backend("kafka", url, namespace=namespace)) as manager:
            found = await manager.statistics("q")
            return found.measure.depth, found.n_dead_letters

    def start() -> Program:
        return programs.python(
            CONSUMER, "kafka", url, namespace, "q", file, "work",
            ready="^ready", env={"PYTHONPATH": str(CONSUMER.parents[2])},
        )  # fmt: skip

    def numbers() -> Counter[int]:
        return Counter(int(line.partition(":")[0]) for line in file.read_text().splitlines())

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
    wait_until(lambda: asyncio.run(left()) == (0, 0), 30.0, "the queue to be empty, and no dead letters")
    done = numbers()
    n_twice = sum(times > 1 for times in done.values())

    assert n_effective == n_kills
    assert set(done) == set(range(n_messages))
    # Between the effect and its acknowledgement there is one message at a time.
    assert n_twice <= n_kills
    print(f"seed {seed}: {n_kills} kills, {n_messages} messages, 0 lost, {n_twice} with two effects")


def test_killed_consumers_on_kafka_lose_no_message(
    kafka: KafkaNode, programs: Programs, tmp_path: Path
) -> None:
    _kill_again_and_again(kafka, programs, tmp_path, n_messages=600, n_kills=3, seed=random.randrange(10**6))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_killed_consumers_on_kafka_lose_no_message(
    kafka: KafkaNode, programs: Programs, tmp_path: Path
) -> None:
    _kill_again_and_again(
        kafka, programs, tmp_path, n_messages=15_000, n_kills=40, seed=random.randrange(10**6)
    )
