"""Workers that are killed: kombu's transport loses tasks, ours does not."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pytest

from pynomaly_tasks.embedded.redis_server import RedisServer
from support.processes import Programs
from support.transport import OURS, PLAIN, Fleet
from support.waiting import wait_until


@pytest.fixture
def fleet(own_redis: RedisServer, programs: Programs) -> Iterator[Fleet]:
    fleet = Fleet(own_redis, programs, lease_s=2.0, visibility_s=3.0)
    yield fleet
    fleet.close()


def test_kombu_loses_the_message_that_a_worker_took_when_it_was_killed(fleet: Fleet) -> None:
    """The control: without it the next test would show nothing."""
    assert killed_when_it_took_one_of_three(fleet, PLAIN) == {1: 0, 2: 1, 3: 1}


def test_message_that_a_worker_took_when_it_was_killed_is_done_once(fleet: Fleet) -> None:
    assert killed_when_it_took_one_of_three(fleet, OURS) == {1: 1, 2: 1, 3: 1}


def killed_when_it_took_one_of_three(fleet: Fleet, transport: str) -> dict[int, int]:
    """How often each task ended, when nothing is left to come back."""
    victim = fleet.worker(transport, env={"TRANSPORT_DIES": "die"})
    fleet.effects.set("die", 1)
    fleet.submit(1, 2, 3, transport=PLAIN)
    wait_until(lambda: not victim.is_running(), 20, "the first worker to be killed")
    fleet.worker(transport)
    fleet.wait_for_ends(2)
    wait_until(lambda: not (fleet.n_unacked() or fleet.n_waiting()), 20, "an empty broker")
    return {number: fleet.ended()[number] for number in (1, 2, 3)}


def test_no_task_is_lost_while_workers_are_killed(fleet: Fleet) -> None:
    assert lost_under_kills(fleet, OURS, n_tasks=300, n_kills=6) == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kombu_loses_tasks_while_workers_are_killed(fleet: Fleet) -> None:
    """The control of the next test."""
    assert lost_under_kills(fleet, PLAIN, n_tasks=4_000, n_kills=60) > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_task_is_lost_in_150_kills(fleet: Fleet) -> None:
    assert lost_under_kills(fleet, OURS, n_tasks=4_000, n_kills=150) == 0


def lost_under_kills(
    fleet: Fleet, transport: str, *, n_tasks: int, n_kills: int, seed: int = 20261122
) -> int:
    """Publishes tasks all the while, and kills a worker group 0.1 to 1 s after its first task started."""
    rng = random.Random(seed)
    numbers = iter(range(n_tasks))
    running: set[int] = set()
    for _ in range(n_kills):
        worker = fleet.worker(transport)
        batch = [number for _, number in zip(range(n_tasks // n_kills), numbers, strict=False)]
        n_started = sum(fleet.started().values())
        fleet.submit(*batch, transport=PLAIN, lasts_s=0.02)
        wait_until(some_more_started(fleet, n_started), 20, "a task to start")
        kill_at = time.monotonic() + rng.uniform(0.1, 1.0)
        wait_until(lambda kill_at=kill_at: time.monotonic() >= kill_at, 2, "the moment to kill")
        worker.kill()
        running |= {number for number, count in fleet.started().items() if count > fleet.ended()[number]}
    fleet.submit(*numbers, transport=PLAIN)
    fleet.worker(transport)
    wait_until(lambda: not (fleet.n_unacked() or fleet.n_waiting()), 120, "an empty broker")
    ended = fleet.ended()
    doubled = {number for number, count in ended.items() if count > 1}
    lost = set(range(n_tasks)) - set(ended)
    print(f"{transport or 'kombu'}: {n_tasks} tasks, {n_kills} kills, seed {seed}: {len(lost)} lost, "
          f"{len(doubled)} ended twice, {len(running)} were running when killed")  # fmt: skip
    return len(lost)


def some_more_started(fleet: Fleet, than: int) -> Callable[[], bool]:
    return lambda: sum(fleet.started().values()) > than
