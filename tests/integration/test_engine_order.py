"""Jobs with one ordering key run one at a time, in the order of their submission."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from support.jobs import Engine
from support.processes import Programs
from support.stores import at_once

N_JOBS, N_KEYS, N_SLOTS = 50, 5, 4


@pytest.fixture
def engine(tmp_path: Path, own_redis: RedisServer, store_url: str, programs: Programs) -> Iterator[Engine]:
    engine = Engine(tmp_path / "engine", programs, own_redis.url, store_url)
    yield engine
    programs.close()
    engine.close()


def test_50_jobs_with_5_keys_on_4_slots_run_one_of_a_key_at_a_time_in_order(engine: Engine) -> None:
    engine.worker(slots=N_SLOTS)
    jobs = [
        # Some fail once: the others of their key must wait for the retry.
        engine.submit(
            {"ordering_key": f"key {n % N_KEYS}", "backoff_s": 0.1, "priority": n % 10},
            label=str(n % N_KEYS),
            lasts_s=0.05,
            fail_attempts=1 if n % 7 == 0 else 0,
        )
        for n in range(N_JOBS)
    ]

    ended = engine.wait_for_all(jobs, 90)

    assert {job.state for job in ended} == {JobState.SUCCEEDED}
    most_at_once, running = 0, set()
    for effect in engine.effects.list():
        if effect.event == "start":
            others = {label for label, job_id in running if job_id != effect.job_id}
            assert effect.label not in others, f"two of key {effect.label} at once"
            running.add((effect.label, effect.job_id))
            most_at_once = max(most_at_once, len(running))
        else:
            running.discard((effect.label, effect.job_id))
    assert most_at_once > 1
    for key in range(N_KEYS):
        done = [effect.job_id for effect in engine.effects.list("end") if effect.label == str(key)]
        assert done == [job.id for job in jobs if job.ordering_key == f"key {key}"]


def test_same_idempotency_key_from_20_threads_at_once_runs_once(engine: Engine) -> None:
    jobs = at_once(20, lambda _: engine.submit({"idempotency_key": "once"}))
    engine.worker(slots=2)
    last = engine.wait_for(engine.submit())

    assert len({job.id for job in jobs}) == 1
    assert engine.wait_for(jobs[0]).state is JobState.SUCCEEDED
    assert last.state is JobState.SUCCEEDED
    assert len(engine.effects.list("start", jobs[0].id)) == 1


def test_5000_jobs_are_submitted_at_once_and_rung_for(engine: Engine, own_redis: RedisServer) -> None:
    jobs = engine.platform.submit_many("act", [engine.request(label=str(n)) for n in range(5_000)])

    with own_redis.client(1) as broker:
        assert broker.llen("default\x06\x169") == 5_000
    assert [job.request["label"] for job in jobs] == [str(n) for n in range(5_000)]
