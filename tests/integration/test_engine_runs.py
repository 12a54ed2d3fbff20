"""What becomes of jobs on real workers: retries, limits, delays, cancels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from statistics import median

import pytest

from pynomaly_tasks.core.job import DeadReason, JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import JobAlreadyFinal
from support.jobs import Engine
from support.processes import Programs
from support.waiting import wait_until


@pytest.fixture(scope="module", params=["prefork", "threads"])
def engine(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """One worker with two slots, in children or in threads."""
    directory = tmp_path_factory.mktemp(f"engine-{request.param}")
    programs = Programs(directory / "programs")
    with redis_server.client(1) as broker:
        broker.flushdb()
    engine = Engine(directory, programs, redis_server.url)
    engine.worker(slots=2, pool=request.param)
    yield engine
    programs.close()
    engine.close()


def test_failing_job_is_tried_again_after_growing_pauses_and_then_a_dead_letter(engine: Engine) -> None:
    job = engine.submit({"max_retries": 2, "backoff_s": 0.4}, fail_attempts=99)

    dead = engine.wait_for(job)

    assert (dead.state, dead.dead_reason, dead.n_failed) == (JobState.DEAD, DeadReason.RETRIES_USED_UP, 3)
    assert engine.outcomes(job) == ["failed"] * 3
    starts = [effect.at for effect in engine.effects.list("start", job.id)]
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert len(pauses) == 2
    assert pauses[0] >= 0.3  # 0.4 s, of which the jitter may take a quarter
    assert pauses[1] >= 0.6
    attempts = engine.platform.store.list_attempts(job.id)
    assert attempts[-1].error is not None
    assert "attempt 3 fails, as it was told" in attempts[-1].error.traceback
    assert engine.platform.store.list_dead_letters(limit=1)[0].job_id == job.id


def test_job_that_fails_twice_succeeds_with_its_third_attempt(engine: Engine) -> None:
    job = engine.wait_for(engine.submit({"backoff_s": 0.1}, fail_attempts=2))

    assert (job.state, job.error) == (JobState.SUCCEEDED, None)
    assert engine.outcomes(job) == ["failed", "failed", "succeeded"]


def test_error_that_no_retry_mends_fails_the_job_at_once(engine: Engine) -> None:
    job = engine.wait_for(engine.submit(fail_attempts=1, retryable=False))

    assert (job.state, engine.outcomes(job)) == (JobState.FAILED, ["failed"])
    assert job.error is not None
    assert job.error.type == "Hopeless"


def test_result_that_the_store_cannot_hold_fails_the_job_and_says_why(engine: Engine) -> None:
    job = engine.wait_for(engine.submit(bad_result=True))

    assert (job.state, engine.outcomes(job)) == (JobState.FAILED, ["failed"])
    assert job.error is not None
    assert "not JSON serializable" in job.error.message


def test_delayed_job_waits_in_the_store_and_starts_when_due(
    engine: Engine, redis_server: RedisServer
) -> None:
    with redis_server.client(1) as broker:
        wait_until(lambda: not broker.hlen("unacked"), 15, "the worker to be idle")

        job = engine.submit({"delay_s": 1.0})

        assert engine.job(job).state is JobState.WAITING
        assert broker.llen("default") == broker.hlen("unacked") == 0
    started_at = engine.wait_for_start(job)

    assert 0 <= started_at - engine.job(job).run_at.timestamp() < 2


def test_job_that_cannot_start_by_its_deadline_is_a_dead_letter(engine: Engine) -> None:
    blockers = [engine.submit(gate=str(engine.gate("deadline"))) for _ in range(2)]
    for blocker in blockers:
        engine.wait_for_start(blocker)

    late = engine.submit({"deadline_at": datetime.now(UTC) + timedelta(seconds=0.5)})
    dead = engine.wait_for(late)
    engine.gate("deadline").touch()

    assert (dead.state, dead.dead_reason) == (JobState.DEAD, DeadReason.DEADLINE_PASSED)
    assert {engine.wait_for(blocker).state for blocker in blockers} == {JobState.SUCCEEDED}
    assert engine.effects.list(job_id=late.id) == []


@pytest.mark.parametrize("checkpoints", [True, False], ids=["at a checkpoint", "by a signal"])
def test_job_past_its_time_limit_is_stopped_and_says_so(engine: Engine, checkpoints: bool) -> None:
    job = engine.submit({"time_limit_s": 0.5}, lasts_s=60, checkpoints=checkpoints)

    ended = engine.wait_for(job, timeout_s=15)

    assert (ended.state, engine.outcomes(job)) == (JobState.FAILED, ["timed_out"])
    assert ended.error is not None
    assert "0.5 s" in ended.error.message
    assert "time_limit_s" in ended.error.message


@pytest.mark.parametrize("engine", ["prefork"], indirect=True)
def test_job_that_ignores_its_time_limit_is_killed(engine: Engine) -> None:
    job = engine.submit({"time_limit_s": 0.5}, lasts_s=60, checkpoints=False, ignores_stop=True)

    ended = engine.wait_for(job, timeout_s=15)
    after = engine.wait_for(engine.submit())

    assert (ended.state, engine.outcomes(job)) == (JobState.FAILED, ["timed_out"])
    assert after.state is JobState.SUCCEEDED
    assert engine.effects.list("end", job.id) == []


def test_job_cancelled_before_its_start_never_runs(engine: Engine) -> None:
    blockers = [engine.submit(gate=str(engine.gate("before"))) for _ in range(2)]
    for blocker in blockers:
        engine.wait_for_start(blocker)
    job = engine.submit()

    cancelled = engine.platform.cancel(job.id, "not needed")
    engine.gate("before").touch()
    last = engine.wait_for(engine.submit())

    assert cancelled.state is JobState.CANCELLED
    assert last.state is JobState.SUCCEEDED
    assert engine.effects.list(job_id=job.id) == []
    assert engine.job(job).state is JobState.CANCELLED


def _slot_free_after_s(engine: Engine, name: str, *, checkpoints: bool) -> float:
    """Cancel one of two running jobs; seconds until a third one runs in its place."""
    job, other = (engine.submit(gate=str(engine.gate(name)), checkpoints=checkpoints) for _ in range(2))
    for each in (job, other):
        engine.wait_for_start(each)
    waits_for_a_slot = engine.submit()

    asked_at = time.time()
    engine.platform.cancel(job.id)
    started_at = engine.wait_for_start(waits_for_a_slot)
    ended = engine.wait_for(job)
    engine.gate(name).touch()

    assert (ended.state, engine.outcomes(job)) == (JobState.CANCELLED, ["cancelled"])
    assert engine.effects.list("end", job.id) == []
    assert engine.wait_for(other).state is JobState.SUCCEEDED
    return started_at - asked_at


@pytest.mark.parametrize("checkpoints", [True, False], ids=["which looks", "which never looks"])
def test_slot_of_a_cancelled_job_is_free_within_2_s(engine: Engine, checkpoints: bool) -> None:
    # Five times, for the moments in which the machine has no time for the worker; the benchmark
    # `cancel.py` shows how often it is later.
    tries = [
        _slot_free_after_s(engine, f"cancelled-{checkpoints}-{number}", checkpoints=checkpoints)
        for number in range(5)
    ]

    assert median(tries) < 2.0, tries


def test_ended_job_cannot_be_cancelled(engine: Engine) -> None:
    job = engine.wait_for(engine.submit())

    with pytest.raises(JobAlreadyFinal, match="succeeded"):
        engine.platform.cancel(job.id)


def test_progress_reaches_the_store(engine: Engine) -> None:
    job = engine.submit(gate=str(engine.gate("progress")))

    progress = wait_until(lambda: engine.job(job).progress, 15, "progress in the store")
    engine.gate("progress").touch()

    assert (progress.current, progress.total, progress.status) == (0, 1, "waiting")
    assert engine.wait_for(job).state is JobState.SUCCEEDED
