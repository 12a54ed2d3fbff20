"""Children of a prefork pool that end just when a task comes: it is done once, and the worker goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pynomaly_tasks.embedded.redis_server import RedisServer
from support.processes import Programs
from support.transport import OUR_CONSUMER, Fleet
from support.transport_child_deaths import HOWS, Deaths, Outcome

SEED = 20261122
OURS = OUR_CONSUMER["TRANSPORT_CONSUMER"]
CELERYS = "celery.worker.consumer:Consumer"
#: A task is given to a child that is gone at most for so long; then come a fork and the task.
SOON_S = 5.0


@pytest.fixture
def fleet(own_redis: RedisServer, programs: Programs) -> Iterator[Fleet]:
    fleet = Fleet(own_redis, programs)
    yield fleet
    fleet.close()


@pytest.mark.parametrize("how", HOWS)
def test_task_that_comes_when_a_child_ends_is_done(fleet: Fleet, how: str) -> None:
    expect_all_done(Deaths(fleet, OURS, seed=SEED).run(how, 8))


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("how", HOWS)
def test_tasks_that_come_when_children_end_are_done(fleet: Fleet, how: str) -> None:
    outcome = Deaths(fleet, OURS, seed=SEED).run(how, 300)
    print(f"\nour consumer: {outcome}")

    expect_all_done(outcome)
    assert max(outcome.waits_s) < SOON_S


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_celery_looks_for_a_child_that_is_gone_after_5_s(fleet: Fleet) -> None:
    """The control: its own consumer loses nothing either, and lets a task wait."""
    outcome = Deaths(fleet, CELERYS, seed=SEED).run("recycling", 10)
    print(f"\nCelery's consumer: {outcome}")

    expect_all_done(outcome)
    assert max(outcome.waits_s) > 2.0


def expect_all_done(outcome: Outcome) -> None:
    assert outcome.lost == set()
    assert outcome.repeated_for_nothing == set()
