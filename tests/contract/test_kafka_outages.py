"""Message queues on Kafka: consumers that die, and a Kafka that restarts, hangs or is not there."""

from __future__ import annotations

import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.errors import BrokerUnavailable, MessagingClosed
from pynomaly_tasks.messaging import QueueManager, QueueOptions, build_backend
from support.kafka import KafkaNode
from support.kafka_topics import unique_name
from support.messaging import one, payloads, until
from support.processes import Program, Programs
from support.waiting import wait_until

CONSUMER = Path(__file__).parents[1] / "support" / "queue_consumer.py"
LEASE_S = 1.0
FROM_HERE = {"PYTHONPATH": str(CONSUMER.parents[2])}


class Setup:
    """A namespace of a Kafka, processes that consume from it, and what they did."""

    def __init__(self, node: KafkaNode, programs: Programs, directory: Path) -> None:
        self.url = f"kafka://{node.bootstrap}"
        self.namespace = unique_name("crash")
        self.programs = programs
        self.file = directory / "done"
        self.file.touch()

    def manager(self, **options: float) -> QueueManager:
        return QueueManager(build_backend("kafka", self.url, namespace=self.namespace, **options))

    def consumer(self, mode: str) -> Program:
        return self.programs.python(
            CONSUMER, "kafka", self.url, self.namespace, "q", self.file, mode, ready="^ready", env=FROM_HERE
        )

    def done(self) -> list[tuple[int, int]]:
        """Number and attempt of each effect, in order."""
        return [tuple(map(int, line.split(":"))) for line in self.file.read_text().splitlines()]  # type: ignore[misc]


async def _is_empty(manager: QueueManager) -> bool:
    return (await manager.statistics("q")).measure.depth == 0


async def test_what_a_killed_process_held_is_done_by_the_other_within_the_lease_on_kafka(
    kafka: KafkaNode, programs: Programs, tmp_path: Path
) -> None:
    setup = Setup(kafka, programs, tmp_path)
    async with setup.manager() as manager:
        await manager.create_queue("q", QueueOptions(lease_s=LEASE_S))
        await manager.send_many("q", list(range(40)))
        doomed = setup.consumer("hold")
        doomed.wait_for_output("holds 20")
        doomed.kill()
        killed_at = time.monotonic()
        setup.consumer("work")
        wait_until(lambda: len(setup.done()) == 40, 20.0, "all 40 to be done")
        took_s = time.monotonic() - killed_at
        await until(lambda: _is_empty(manager), "the queue to be empty")

        # The other process takes a second to start.
        assert took_s < LEASE_S + 5.0
        assert sorted(setup.done()) == [(n, 2) for n in range(20)] + [(n, 1) for n in range(20, 40)]
        assert await manager.dead_letters.list_letters("q") == []


async def test_workers_resume_by_themselves_after_kafka_was_killed_twice(
    own_kafka: KafkaNode, programs: Programs, tmp_path: Path
) -> None:
    setup = Setup(own_kafka, programs, tmp_path)
    async with setup.manager() as manager:
        await manager.create_queue("q", QueueOptions(lease_s=LEASE_S))
        await manager.send_many("q", list(range(1_000)))
    workers = [setup.consumer("work"), setup.consumer("worker:0.001")]
    for n_done in (150, 500):
        wait_until(lambda n=n_done: len(setup.done()) >= n, 60.0, f"{n_done} to be done")
        own_kafka.restart()
    wait_until(lambda: len({n for n, _ in setup.done()}) == 1_000, 60.0, "all 1,000 to be done")
    async with setup.manager() as manager:
        await until(lambda: _is_empty(manager), "the queue to be empty", timeout_s=20.0)
        assert await manager.dead_letters.list_letters("q") == []
    n_twice = sum(times > 1 for times in Counter(n for n, _ in setup.done()).values())

    # What was held when Kafka went, at most, in each of the two restarts.
    assert n_twice <= 2 * (20 + 5 + 3)
    assert all(worker.is_running() for worker in workers)
    workers[1].signal_group(signal.SIGTERM)
    wait_until(lambda: not workers[1].is_running(), 10.0, "the worker to end")
    assert workers[1].returncode == 0


async def test_closed_port_of_kafka_is_an_error_within_the_connect_timeout() -> None:
    url = f"kafka://user:hush@127.0.0.1:{find_free_port()}"
    backend = build_backend("kafka", url, connect_timeout_s=1.0)
    started = time.monotonic()

    with pytest.raises(BrokerUnavailable, match="no answer") as caught:
        await backend.open()
    assert time.monotonic() - started < 1.5
    assert "hush" not in str(caught.value)


async def test_kafka_that_hangs_is_an_error_within_the_timeout(own_kafka: KafkaNode) -> None:
    backend = build_backend("kafka", f"kafka://{own_kafka.bootstrap}", namespace="hang", timeout_s=1.0)
    async with QueueManager(backend) as manager:
        await manager.create_queue("q", QueueOptions(lease_s=60.0))
        await manager.send("q", 1)
        await (await one(manager, "q")).give_back()
        own_kafka.pause()
        started = time.monotonic()
        for call in (manager.send("q", 2), manager.receive("q", wait_s=30.0), manager.health()):
            with pytest.raises(BrokerUnavailable):
                await call
        took_s = time.monotonic() - started
        own_kafka.resume()

        async def sees_it() -> bool:
            try:
                return 1 in await payloads(manager, "q", wait_s=0.5)
            except BrokerUnavailable:
                return False

        await until(sees_it, "the message after the pause", timeout_s=20.0)
        assert took_s < 3 * 2.5
    with pytest.raises(MessagingClosed):
        await manager.send("q", 3)
