"""Workers that are killed: kombu's transport loses tasks, ours does not."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from pynomaly_tasks.embedded.redis_server import RedisServer
from support.processes import Programs
from support.transport import OURS, PLAIN, Fleet
from support.transport_kills import KillRun
from support.transport_log import LOG, ran_at_once, read_runs, write_kill
from support.waiting import wait_until

SEED = 20261122


@pytest.fixture
def fleet(own_redis: RedisServer, programs: Programs) -> Iterator[Fleet]:
    fleet = Fleet(own_redis, programs, lease_s=4.0, visibility_s=3.0)
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
    wait_until(fleet.is_empty, 20, "an empty broker")
    return {number: fleet.ended()[number] for number in (1, 2, 3)}


def test_start_that_redis_reads_after_its_worker_was_killed_counts_as_interrupted(fleet: Fleet) -> None:
    """The checker: what was on its way to Redis when the worker died comes after the kill in the log."""

    def write(what: str, group: int, **more: str | int | float) -> None:
        fleet.effects.xadd(LOG, {"what": what, "group": group, **more})

    with write_kill(fleet.effects, 1):
        write("start", 2, number=7, run="other", pid=20, clock=time.time())
    write("start", 1, number=5, run="late", pid=10, clock=time.time())
    write("start", 2, number=5, run="repeated", pid=20, clock=time.time())
    write("end", 2, run="repeated")

    runs = read_runs(fleet.effects)

    assert [run.was_interrupted for run in runs[5]] == [True, False]
    assert not ran_at_once(runs[5])
    assert [run.killed_at for run in runs[7]] == [None]


#: A run that had ended is repeated when its worker died before the acknowledgement reached Redis. That takes
#: 1 to 2 ms, 20 ms more at most where many tasks end, and what a busy machine adds.
ACKNOWLEDGED_WITHIN_S = 1.0


def test_no_task_is_lost_while_workers_are_killed(fleet: Fleet) -> None:
    expect_nothing_lost(fleet, n_tasks=300, n_kills=6)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_no_task_is_lost_in_150_kills(fleet: Fleet) -> None:
    expect_nothing_lost(fleet, n_tasks=4_000, n_kills=150)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_kombu_loses_tasks_in_60_kills(fleet: Fleet) -> None:
    """The control: the same run on kombu's own transport."""
    outcome = KillRun(fleet, PLAIN, n_tasks=4_000, n_kills=60, seed=SEED).run()
    print(f"\nkombu's transport: {outcome}")

    assert outcome.lost


def expect_nothing_lost(fleet: Fleet, *, n_tasks: int, n_kills: int) -> None:
    outcome = KillRun(fleet, OURS, n_tasks=n_tasks, n_kills=n_kills, seed=SEED).run()
    print(f"\nour transport: {outcome}")

    assert outcome.lost == set()
    assert outcome.at_once == set()
    # Whatever ran again was held by a worker that was killed: it was running, or had just ended.
    late = [run for run in outcome.unacknowledged if run.ended_before_kill_s >= ACKNOWLEDGED_WITHIN_S]
    assert late == []
