"""A queue that processes consume from, while they, their connections or the broker die."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.messaging import QueueManager, QueueOptions, QueueStatistics, build_backend
from support.kafka_topics import unique_name
from support.messaging import payloads, until
from support.processes import ROOT, Program, Programs
from support.waiting import wait_until

CONSUMER = Path(__file__).with_name("queue_consumer.py")


class ConsumedQueue:
    """The queue ``q`` of a namespace of its own, processes that consume from it, and what they did."""

    def __init__(self, backend: str, url: str, programs: Programs, directory: Path) -> None:
        self.backend = backend
        self.url = url
        self.namespace = unique_name("outage")
        self._programs = programs
        self._file = directory / "done"
        self._file.touch()

    def manager(self, **options: float) -> QueueManager:
        """A connection as another process would have it."""
        return QueueManager(build_backend(self.backend, self.url, namespace=self.namespace, **options))

    async def fill(self, n_messages: int, options: QueueOptions) -> None:
        """Declare it, and send the numbers from 0."""
        async with self.manager() as manager:
            await manager.create_queue("q", options)
            await manager.send_many("q", list(range(n_messages)))

    def consumer(self, mode: str, *, query: str = "", ready: str = "^ready") -> Program:
        """Start a process; the modes are those of `queue_consumer.py`. ``query`` is added to the URL."""
        return self._programs.python(
            CONSUMER, self.backend, self.url + query, self.namespace, "q", self._file, mode,
            ready=ready, env={"PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def done(self) -> list[tuple[int, int]]:
        """Number and attempt of each effect, in order."""
        pairs = (line.split(":") for line in self._file.read_text().splitlines())
        return [(int(number), int(attempt)) for number, attempt in pairs]

    def times_done(self) -> Counter[int]:
        """How often each number was done."""
        return Counter(number for number, _ in self.done())


async def is_empty(manager: QueueManager) -> bool:
    """Of its ``q``."""
    return (await manager.statistics("q")).measure.depth == 0


async def comes(manager: QueueManager, payload: object) -> bool:
    """Whether ``q`` hands it out; while the broker is away it does not."""
    try:
        return payload in await payloads(manager, "q", wait_s=0.5)
    except BrokerUnavailable:
        return False


async def is_held_by(program: Program) -> int:
    """How many messages the consumer of the mode ``hold`` has in its hands."""

    async def says() -> re.Match[str] | None:
        return re.search(r"holds (\d+)", program.output())

    found = await until(says, f"{program.command} to hold messages", timeout_s=30.0)
    assert found is not None
    return int(found[1])


async def outlive_a_holder(queue: ConsumedQueue, *, n_messages: int) -> tuple[int, float]:
    """A consumer dies by SIGKILL with messages in its hands, and another does them all.

    Returns how many were held, and how many seconds after the kill all were done.
    """
    doomed = queue.consumer("hold")
    n_held = await is_held_by(doomed)
    doomed.kill()
    killed_at = time.monotonic()
    queue.consumer("work")

    async def are_done() -> bool:
        return len(queue.done()) == n_messages

    await until(are_done, f"all {n_messages} to be done", timeout_s=30.0)
    return n_held, time.monotonic() - killed_at


async def outlive_a_holder_of_20(queue: ConsumedQueue, *, lease_s: float) -> None:
    """`outlive_a_holder` of half of 40 messages: each is done once, those of the dead at their second attempt."""
    n_held, took_s = await outlive_a_holder(queue, n_messages=40)

    # The other process takes a second to start.
    assert (n_held, took_s < lease_s + 5.0) == (20, True)
    assert sorted(queue.done()) == [(n, 2) for n in range(20)] + [(n, 1) for n in range(20, 40)]
    async with queue.manager() as manager:
        await until(lambda: is_empty(manager), "the queue to be empty")
        assert await manager.dead_letters.list_letters("q") == []


async def outlive_restarts(
    queue: ConsumedQueue, restarts: Sequence[Callable[[], object]], *, n_messages: int
) -> None:
    """A consumer and a worker do all of a queue that was filled, while the broker restarts again and again."""
    workers = [queue.consumer("work"), queue.consumer("worker:0.001")]
    for n, restart in enumerate(restarts, 1):
        n_done = n * n_messages // (len(restarts) + 2)
        wait_until(lambda n=n_done: len(queue.done()) >= n, 60.0, f"{n_done} to be done")
        restart()
    wait_until(lambda: len(queue.times_done()) == n_messages, 60.0, f"all {n_messages} to be done")
    async with queue.manager() as manager:
        await until(lambda: is_empty(manager), "the queue to be empty", timeout_s=20.0)
        assert await manager.dead_letters.list_letters("q") == []
    n_twice = sum(times > 1 for times in queue.times_done().values())

    # What the two held when the broker went, at most, in each of the restarts.
    assert n_twice <= len(restarts) * (20 + 5 + 3)
    assert all(worker.is_running() for worker in workers)
    stop_gracefully(workers[1])


def stop_gracefully(worker: Program) -> None:
    """It ends by SIGTERM, and says that all went well."""
    worker.signal_group(signal.SIGTERM)
    wait_until(lambda: not worker.is_running(), 10.0, "the worker to end")
    assert worker.returncode == 0


def kill_again_and_again(
    queue: ConsumedQueue, *, n_messages: int, n_kills: int, n_consumers: int = 2
) -> QueueStatistics:
    """Consumers die by SIGKILL under a counted load, one after another, and lose nothing; what the queue says then."""
    seed = random.randrange(10**6)
    chance = random.Random(seed)

    async def left() -> QueueStatistics:
        async with queue.manager() as manager:
            return await manager.statistics("q")

    # Each kill is a try of what was held.
    options = QueueOptions(lease_s=1.0, retry=RetryPolicy(max_retries=n_kills))
    asyncio.run(queue.fill(n_messages, options))
    consumers = [queue.consumer("work") for _ in range(n_consumers)]
    n_effective = 0
    for kill in range(n_kills):
        target = (kill + 1) * n_messages // (n_kills + 1)
        wait_until(lambda target=target: len(queue.times_done()) >= target, 60.0, f"{target} to be done")
        at = chance.randrange(n_consumers)
        n_effective += consumers[at].is_running()
        consumers[at].kill()
        consumers[at] = queue.consumer("work")
    wait_until(
        lambda: len(queue.times_done()) == n_messages, 60.0, f"all {n_messages} to be done (seed {seed})"
    )
    wait_until(lambda: asyncio.run(left()).measure.depth == 0, 30.0, "the queue to be empty")
    done = queue.times_done()
    n_twice = sum(times > 1 for times in done.values())

    assert n_effective == n_kills
    assert set(done) == set(range(n_messages))
    # Between the effect and its acknowledgement there is one message at a time.
    assert n_twice <= n_kills
    print(f"seed {seed}: {n_kills} kills, {n_messages} messages, 0 lost, {n_twice} with two effects")
    return asyncio.run(left())
