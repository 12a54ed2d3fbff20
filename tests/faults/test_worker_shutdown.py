"""Workers that are told to end while they work."""

from __future__ import annotations

import signal
import time

from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from support.jobs import LEASE_S, Engine
from support.waiting import wait_until


def test_sigterm_lets_the_running_job_end_and_leaves_the_others_to_other_workers(
    engine: Engine, own_redis: RedisServer
) -> None:
    ending = engine.worker()
    running = engine.submit(gate=str(engine.gate()))
    engine.wait_for_start(running)
    others = [engine.submit() for _ in range(3)]

    ending.signal_leader(signal.SIGTERM)
    ending.wait_for_output("[Ww]arm shutdown")
    engine.worker()
    ended = [engine.wait_for(job) for job in others]
    engine.gate().touch()
    last = engine.wait_for(running)
    wait_until(lambda: not ending.is_running(), 20, "the worker to end")

    assert (last.state, engine.outcomes(last)) == (JobState.SUCCEEDED, ["succeeded"])
    assert {(job.state, job.attempt) for job in ended} == {(JobState.SUCCEEDED, 1)}
    assert ending.returncode == 0
    with own_redis.client(1) as broker:
        wait_until(lambda: not broker.hlen("unacked"), 10, "nothing to be held")


def test_sigquit_gives_the_running_job_up_after_a_lease_and_another_worker_runs_it(
    engine: Engine, own_redis: RedisServer
) -> None:
    ending = engine.worker()
    job = engine.submit(gate=str(engine.gate()))
    engine.wait_for_start(job)
    engine.worker()

    ending.signal_leader(signal.SIGQUIT)
    told_at = time.time()
    started_again_at = engine.wait_for_start(job, attempt=2, timeout_s=2 * LEASE_S + 5)
    engine.gate().touch()
    ended = engine.wait_for(job)
    wait_until(lambda: not ending.is_running(), 20, "the worker to end")

    assert started_again_at - told_at <= 2 * LEASE_S + 5
    assert (ended.state, engine.outcomes(job)) == (JobState.SUCCEEDED, ["lost", "succeeded"])
    assert [effect.attempt for effect in engine.effects.list("end")] == [2]
    with own_redis.client(1) as broker:
        wait_until(lambda: not broker.hlen("unacked"), 10, "nothing to be held")
