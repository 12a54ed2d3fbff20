"""Message queues on Kafka: consumers that die, and a Kafka that restarts, hangs or is not there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.errors import BrokerUnavailable, MessagingClosed
from pynomaly_tasks.messaging import QueueManager, QueueOptions, build_backend
from support.kafka import KafkaNode
from support.messaging import one, until
from support.processes import Programs
from support.queue_outages import ConsumedQueue, comes, outlive_a_holder_of_20, outlive_restarts

LEASE_S = 1.0


def _queue(node: KafkaNode, programs: Programs, directory: Path) -> ConsumedQueue:
    return ConsumedQueue("kafka", f"kafka://{node.bootstrap}", programs, directory)


async def test_what_a_killed_process_held_is_done_by_the_other_within_the_lease_on_kafka(
    kafka: KafkaNode, programs: Programs, tmp_path: Path
) -> None:
    queue = _queue(kafka, programs, tmp_path)
    await queue.fill(40, QueueOptions(lease_s=LEASE_S))
    await outlive_a_holder_of_20(queue, lease_s=LEASE_S)


async def test_workers_resume_by_themselves_after_kafka_was_killed_twice(
    own_kafka: KafkaNode, programs: Programs, tmp_path: Path
) -> None:
    queue = _queue(own_kafka, programs, tmp_path)
    await queue.fill(1_000, QueueOptions(lease_s=LEASE_S))

    await outlive_restarts(queue, [own_kafka.restart] * 2, n_messages=1_000)


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
        await until(lambda: comes(manager, 1), "the message after the pause", timeout_s=20.0)
        assert took_s < 3 * 2.5
    with pytest.raises(MessagingClosed):
        await manager.send("q", 3)
