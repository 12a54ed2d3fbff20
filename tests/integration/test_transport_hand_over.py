"""A task that comes alone begins before its worker does anything else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pynomaly_tasks.embedded.redis_server import RedisServer
from support.processes import Programs
from support.transport import OURS, Fleet

N_TASKS = 10


@pytest.fixture
def fleet(own_redis: RedisServer, programs: Programs) -> Iterator[Fleet]:
    fleet = Fleet(own_redis, programs)
    yield fleet
    fleet.close()


def begun_one_by_one(fleet: Fleet, consumer: str, pool: str) -> list[bool]:
    """Of each of some tasks, whether it had begun when the consumer had given it to the pool."""
    env = {"TRANSPORT_CONSUMER": f"support.transport_handing:{consumer}"}
    fleet.worker(OURS, pool=pool, env=env)
    with fleet.publisher() as publish:
        for number in range(1, N_TASKS + 1):
            publish(number)
            fleet.wait_for_ends(number)
    handed: list[bytes] = fleet.effects.lrange("handed", 0, -1)  # type: ignore[assignment]  # not async
    return [each == b"1" for each in handed]


def test_lone_task_is_written_to_an_idle_child_at_once(fleet: Fleet) -> None:
    """Where the worker waits already when it comes, which is not certain each time."""
    assert any(begun_one_by_one(fleet, "Ours", "prefork"))


def test_celery_writes_a_task_to_a_child_later(fleet: Fleet) -> None:
    """The control: without it the test before would show nothing."""
    assert not any(begun_one_by_one(fleet, "Celerys", "prefork"))


def test_lone_task_begins_in_its_thread_while_the_main_thread_stands_aside(fleet: Fleet) -> None:
    """Not each time: on a busy machine the thread may need longer to wake up."""
    assert any(begun_one_by_one(fleet, "Ours", "threads"))


def test_celery_does_not_wait_for_the_thread(fleet: Fleet) -> None:
    """The control: without standing aside hardly a task has begun."""
    assert not all(begun_one_by_one(fleet, "Celerys", "threads"))
