"""Workers that die or stand still in the middle of a job."""

from __future__ import annotations

import time

from pynomaly_tasks.core.job import JobState
from support.jobs import LEASE_S, Engine
from support.waiting import wait_until


def test_job_of_a_killed_worker_runs_again_within_a_lease_plus_5_s(engine: Engine) -> None:
    first = engine.worker()
    job = engine.submit(gate=str(engine.gate()))
    engine.wait_for_start(job)
    engine.worker()

    killed_at = time.time()
    first.kill()
    started_again_at = engine.wait_for_start(job, attempt=2, timeout_s=LEASE_S + 5)
    engine.gate().touch()
    ended = engine.wait_for(job)

    assert started_again_at - killed_at <= LEASE_S + 5
    assert ended.state is JobState.SUCCEEDED
    assert engine.outcomes(job) == ["lost", "succeeded"]
    assert engine.platform.store.get_result(job.id).attempt == 2
    assert [effect.attempt for effect in engine.effects.list("end")] == [2]


def test_late_result_of_a_paused_worker_is_refused(engine: Engine) -> None:
    paused = engine.worker()
    job = engine.submit(gate=str(engine.gate()))
    engine.wait_for_start(job)
    other = engine.worker()

    paused.pause()
    engine.wait_for_start(job, attempt=2)
    engine.gate().touch()
    ended = engine.wait_for(job)
    paused.resume()
    paused.wait_for_output("late_result_refused")

    assert ended.state is JobState.SUCCEEDED
    assert engine.job(job) == ended
    assert engine.platform.store.get_result(job.id).attempt == 2
    assert engine.outcomes(job) == ["lost", "succeeded"]
    assert other.is_running()
    wait_until(lambda: len(engine.effects.list("end")) == 2, 10, "both attempts to have worked")
