"""A cancel that outlives every process."""

from __future__ import annotations

from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from support.jobs import Engine


def test_cancelled_jobs_do_not_run_after_a_restart_of_everything(
    engine: Engine, own_redis: RedisServer
) -> None:
    worker = engine.worker()
    running = engine.submit(gate=str(engine.gate()))
    engine.wait_for_start(running)
    queued, delayed, kept = engine.submit(), engine.submit({"delay_s": 0.5}), engine.submit()

    worker.kill()
    for job in (running, queued, delayed):
        engine.platform.cancel(job.id, "not needed")
    own_redis.restart()
    engine.gate().touch()
    engine.worker()
    ended = engine.wait_for_all([running, queued, delayed, kept], 30)

    assert [job.state for job in ended] == [JobState.CANCELLED] * 3 + [JobState.SUCCEEDED]
    assert {effect.job_id for effect in engine.effects.list("start")} == {running.id, kept.id}
    assert engine.effects.list("end", running.id) == []
    assert engine.outcomes(running) == ["cancelled"]
