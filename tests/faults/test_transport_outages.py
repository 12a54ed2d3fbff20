"""A broker that stands still, dies or is full for a while: workers go on by themselves."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.transport import OUR_CONSUMER, OURS, Fleet
from support.transport_log import read_runs
from support.waiting import wait_until

#: Of the time from the server's return to the first task; a busy machine is given twice the 5 s.
RESUMED_WITHIN_S = 10.0


@contextmanager
def paused(fleet: Fleet) -> Iterator[None]:
    fleet.server.signal(signal.SIGSTOP)
    yield
    fleet.server.signal(signal.SIGCONT)


@contextmanager
def killed(fleet: Fleet) -> Iterator[None]:
    fleet.server.kill()
    yield
    fleet.server.start()


@contextmanager
def full(fleet: Fleet) -> Iterator[None]:
    used = int(fleet.broker.info("memory")["used_memory"])
    fleet.broker.config_set("maxmemory", used - 100_000)
    yield
    fleet.broker.config_set("maxmemory", 0)


OUTAGES = {"paused": paused, "killed": killed, "full": full}


@pytest.mark.parametrize(("outage", "lasts_s"), [("paused", 5.0), ("killed", 0.0), ("full", 3.0)])
def test_workers_go_on_soon_and_what_runs_is_not_repeated(fleet: Fleet, outage: str, lasts_s: float) -> None:
    expect_resumed(fleet, outage, lasts_s)


@pytest.mark.slow
@pytest.mark.parametrize("lasts_s", [5.0, 15.0, 45.0])
@pytest.mark.parametrize("outage", OUTAGES)
def test_workers_go_on_soon_after_a_long_outage(fleet: Fleet, outage: str, lasts_s: float) -> None:
    expect_resumed(fleet, outage, lasts_s)


def expect_resumed(fleet: Fleet, outage: str, lasts_s: float) -> None:
    """Two tasks run through the outage, which is longer than the lease; others are published after it."""
    workers = [fleet.worker(OURS, pool=pool, env=OUR_CONSUMER) for pool in ("prefork", "threads")]
    through = [1, 2]
    fleet.submit(*through, lasts_s=lasts_s + 3.0)
    for number in through:
        fleet.wait_for_start(number)

    with OUTAGES[outage](fleet):
        began_at = time.monotonic()
        wait_until(lambda: time.monotonic() - began_at >= lasts_s, lasts_s + 5, "the end of the outage")
    back_at = time.time()
    fleet.submit(*range(3, 13))
    fleet.wait_for_ends(12, timeout_s=60)
    wait_until(lambda: fleet.n_unacked() == 0, 10, "all to be settled")

    runs = read_runs(fleet.effects)
    resumed_after_s = min(runs[number][0].started_at for number in range(3, 13)) - back_at
    print(f"\nRedis {outage} for {lasts_s:g} s: the first task started {resumed_after_s:.2f} s after")
    assert {number: len(of_one) for number, of_one in runs.items()} == dict.fromkeys(range(1, 13), 1)
    assert all(worker.is_running() for worker in workers)
    assert resumed_after_s < RESUMED_WITHIN_S
