"""A worker whose Redis goes away under a running task works on when it is back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynomaly_tasks import send_notification
from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from support.gate import Gate
from support.processes import Program
from support.stack import Stack, client
from support.waiting import wait_until

TIMEOUT_S = 60


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.close()


@pytest.fixture
def stack(tmp_path: Path, own_redis: RedisServer, gate: Gate) -> Iterator[Stack]:
    env = {
        "PYNOMALY_NOTIFICATIONS__CHANNELS": json.dumps({"gate": gate.channel}),
        "PYNOMALY_NOTIFICATIONS__TIMEOUT_S": "60",
    }
    stack = Stack(tmp_path / "stack", own_redis, env)
    with client(stack):
        yield stack
        stack.close()


def _lose_redis_under_a_running_job(stack: Stack, gate: Gate, worker: Program) -> str:
    """Start a job, take Redis away, let the job end meanwhile, bring Redis back; the job's id."""
    gate.shut()
    # Nothing is written to the result backend, so that the task ends, and is acknowledged, during the outage.
    result = send_notification.apply_async(
        kwargs={"body": "x", "subject": "held", "channels": "gate"}, ignore_result=True
    )
    gate.wait_for("held")
    stack.redis.kill()
    wait_until(
        lambda: not worker.is_running() or "Trying again in" in worker.output(),
        TIMEOUT_S,
        "the worker to notice",
    )
    gate.open()
    wait_until(
        lambda: not worker.is_running() or f"[{result.id}] succeeded" in worker.output(),
        TIMEOUT_S,
        "the task to end",
    )
    stack.redis.restart()
    return result.id


def test_platform_worker_finishes_its_job_and_takes_the_next(stack: Stack, gate: Gate) -> None:
    worker = stack.worker("workers.all", "-c", "1")

    job_id = _lose_redis_under_a_running_job(stack, gate, worker)
    following = send_notification.delay(body="x")

    assert stack.platform.store.get_job(job_id).state is JobState.SUCCEEDED
    assert following.get(timeout=TIMEOUT_S)["delivered"] == ["log"]
    assert stack.wait_for(following.id, timeout_s=TIMEOUT_S).state is JobState.SUCCEEDED
    assert worker.is_running()
    assert stack.platform.store.get_job(job_id).attempt == 1
    assert gate.subjects == ["held"]


def test_platform_worker_loses_no_part_of_itself(stack: Stack, gate: Gate) -> None:
    worker = stack.worker("workers.all", "-c", "1")

    _lose_redis_under_a_running_job(stack, gate, worker)
    send_notification.delay(body="x").get(timeout=TIMEOUT_S)

    assert "broker_connection_lost" in worker.output()
    assert "'NoneType' object has no attribute" not in worker.output()
