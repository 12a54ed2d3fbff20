"""Workers and their children that die or stand still in the middle of a job."""

from __future__ import annotations

import random
import time

import pytest

from pynomaly_tasks.core.job import DeadReason, JobState
from support.jobs import LEASE_S, Engine, check_ended_once
from support.pausing import pause_between_writes
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

    pause_between_writes(paused, engine.settings.store_url())
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


def test_job_that_kills_its_child_each_time_becomes_a_dead_letter_and_the_pool_lives_on(
    engine: Engine,
) -> None:
    worker = engine.worker(slots=2)
    killer = engine.submit(kill_attempts=99, label="old")
    others = [engine.submit(label="other") for _ in range(4)]

    dead = engine.wait_for(killer)
    ended = [engine.wait_for(job) for job in others]
    replayed = engine.platform.replay(killer.id, {"kill_attempts": None, "label": "edited"})
    succeeded = engine.wait_for(replayed)

    assert (dead.state, dead.dead_reason) == (JobState.DEAD, DeadReason.WORKER_KILLED)
    assert engine.outcomes(killer) == ["lost"] * 3
    assert len(engine.effects.list("start", killer.id)) == 3
    assert {job.state for job in ended} == {JobState.SUCCEEDED}
    assert worker.is_running()
    [letter] = engine.platform.store.list_dead_letters()
    assert (letter.job_id, letter.reason, letter.n_attempts) == (killer.id, DeadReason.WORKER_KILLED, 3)
    assert letter.replayed_as == replayed.id
    assert (succeeded.state, succeeded.replay_of) == (JobState.SUCCEEDED, killer.id)
    assert succeeded.summary is not None
    assert succeeded.summary["label"] == "edited"
    assert engine.job(killer).state is JobState.DEAD


def test_job_that_kills_its_child_once_is_tried_again_at_once(engine: Engine) -> None:
    engine.worker()

    killed = engine.wait_for(engine.submit(kill_attempts=1))
    left = engine.wait_for(engine.submit(exit_attempts=1))

    assert (killed.state, engine.outcomes(killed)) == (JobState.SUCCEEDED, ["lost", "succeeded"])
    assert (left.state, engine.outcomes(left)) == (JobState.SUCCEEDED, ["lost", "succeeded"])


def test_job_that_holds_the_gil_for_longer_than_its_lease_keeps_it(engine: Engine) -> None:
    engine.worker(slots=2)

    job = engine.wait_for(engine.submit(lasts_s=2.5 * LEASE_S, holds_gil=True))

    assert (job.state, engine.outcomes(job)) == (JobState.SUCCEEDED, ["succeeded"])
    assert len(engine.effects.list("start")) == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_job_is_lost_or_done_twice_while_workers_are_killed(engine: Engine) -> None:
    seed, n_jobs, n_kills = 20261122, 600, 60
    rng = random.Random(seed)
    # A job may be hit by more kills than a job that kills its worker would be allowed to survive.
    env = {"PYNOMALY_JOBS__MAX_LOST_ATTEMPTS": "20"}
    workers = [engine.worker(slots=2, env=env) for _ in range(2)]
    jobs = []

    for n in range(n_kills):
        jobs += [engine.submit(lasts_s=rng.uniform(0.0, 0.6)) for _ in range(n_jobs // n_kills)]
        victim = rng.randrange(2)
        n_started = len(engine.effects.list("start"))
        wait_until(
            lambda n_started=n_started: (
                len(engine.effects.list("start")) > n_started or not open_jobs(engine)
            ),
            60,
            "a job to start",
        )
        workers[victim].kill()
        workers[victim] = engine.worker(slots=2, env=env, wait=n % 2 == 0)
    engine.wait_for_all(jobs, 300)

    check_ended_once(engine, jobs, f"seed {seed}, {n_kills} kills of a worker group")


def open_jobs(engine: Engine) -> int:
    return sum(n for (_, state), n in engine.platform.store.count_by_state().items() if not state.is_final)
