"""What is slow to import is in the memory of a worker's children once, and does not delay its start."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pynomaly_tasks import detect_anomalies
from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from support.jobs import EngineStarter
from support.processes import Program
from support.stack import Stack, client
from support.waiting import wait_until

_LIBRARY = "/sklearn/tree/_tree."
_PATIENCE_S = 120.0


@pytest.fixture
def stack(tmp_path: Path, own_redis: RedisServer) -> Iterator[Stack]:
    stack = Stack(tmp_path / "stack", own_redis)
    with client(stack):
        try:
            yield stack
        finally:
            stack.close()


def _children(worker: Program) -> list[psutil.Process]:
    return psutil.Process(worker.pid).children()


def _has_library(process: psutil.Process) -> bool:
    try:
        return _LIBRARY in Path(f"/proc/{process.pid}/maps").read_text()
    except OSError:
        return False


def test_idle_children_have_the_slow_library_without_importing_it(stack: Stack) -> None:
    worker = stack.worker("workers.detection", "-c", "3")

    def shared() -> list[psutil.Process] | None:
        children = _children(worker)
        return children if len(children) == 3 and all(map(_has_library, children)) else None

    children = wait_until(shared, _PATIENCE_S, "three children that share scikit-learn")

    # None of them has had a job, and a child imports nothing by itself: the parent's import is what
    # they have, and what they hold beside it is small.
    parent = psutil.Process(worker.pid).memory_full_info()
    assert all(child.memory_full_info().uss < parent.rss / 4 for child in children)


def test_first_child_finishes_its_job_before_it_is_replaced(
    start_engine: EngineStarter, own_redis: RedisServer
) -> None:
    engine = start_engine(own_redis.url)
    gate = engine.gate()
    first_job, following = engine.submit(gate=str(gate)), engine.submit()
    worker = engine.worker(app="support.full_worker")
    engine.wait_for_start(first_job)
    [first_child] = _children(worker)

    worker.wait_for_output("imports_shared", _PATIENCE_S)
    gate.touch()

    assert engine.wait_for(first_job).state is JobState.SUCCEEDED
    assert engine.outcomes(first_job) == ["succeeded"]
    assert engine.wait_for(following).state is JobState.SUCCEEDED
    wait_until(
        lambda: [child for child in _children(worker) if child != first_child and _has_library(child)],
        _PATIENCE_S,
        "a child that shares scikit-learn in place of the first",
    )


def test_jobs_that_never_pause_still_get_children_that_share(stack: Stack) -> None:
    worker = stack.worker("workers.all", "-c", "2")
    first_children = set(_children(worker))
    jobs = stack.platform.submit_many("send_notification", [{"body": "x"}] * 300)

    ended = [stack.wait_for(job.id, timeout_s=_PATIENCE_S) for job in jobs]
    wait_until(
        lambda: first_children.isdisjoint(_children(worker)) and all(map(_has_library, _children(worker))),
        _PATIENCE_S,
        "no child of the first left",
    )

    assert {job.state for job in ended} == {JobState.SUCCEEDED}
    assert {job.attempt for job in ended} == {1}


def test_child_killed_while_the_parent_imports_is_replaced_by_one_that_works(stack: Stack) -> None:
    worker = stack.worker("workers.all", "-c", "1")
    [first_child] = _children(worker)
    table = stack.csv("table.csv", [(row % 7, row % 5) for row in range(100)])

    first_child.send_signal(signal.SIGKILL)

    result = detect_anomalies.delay(dataset=table, detector="isolation_forest")
    assert stack.wait_for(result.id, timeout_s=_PATIENCE_S).state is JobState.SUCCEEDED
