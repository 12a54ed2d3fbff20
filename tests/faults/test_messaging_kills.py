"""Consumers of a queue on Redis die by SIGKILL under a counted load, again and again: nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from pynomaly_tasks.embedded.redis_server import RedisServer
from support.processes import Programs
from support.queue_outages import ConsumedQueue, kill_again_and_again


@pytest.fixture
def queue(own_redis: RedisServer, programs: Programs, tmp_path: Path) -> ConsumedQueue:
    return ConsumedQueue("redis_streams", f"{own_redis.url}/0", programs, tmp_path)


def test_killed_consumers_lose_no_message(queue: ConsumedQueue) -> None:
    left = kill_again_and_again(queue, n_messages=1_500, n_kills=4)

    assert (left.measure.acknowledged, left.measure.failed, left.n_dead_letters) == (1_500, 0, 0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_killed_consumers_lose_no_message(queue: ConsumedQueue) -> None:
    left = kill_again_and_again(queue, n_messages=30_000, n_kills=60)

    assert (left.measure.acknowledged, left.measure.failed, left.n_dead_letters) == (30_000, 0, 0)
