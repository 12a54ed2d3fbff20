"""Consumers of a queue on Kafka die by SIGKILL under a counted load, again and again: nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.kafka import KafkaNode
from support.processes import Programs
from support.queue_outages import ConsumedQueue, kill_again_and_again


@pytest.fixture
def queue(kafka: KafkaNode, programs: Programs, tmp_path: Path) -> ConsumedQueue:
    return ConsumedQueue("kafka", f"kafka://{kafka.bootstrap}", programs, tmp_path)


def test_killed_consumers_on_kafka_lose_no_message(queue: ConsumedQueue) -> None:
    left = kill_again_and_again(queue, n_messages=600, n_kills=3)

    assert left.n_dead_letters == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_killed_consumers_on_kafka_lose_no_message(queue: ConsumedQueue) -> None:
    left = kill_again_and_again(queue, n_messages=15_000, n_kills=40)

    assert left.n_dead_letters == 0
