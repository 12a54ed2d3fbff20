"""Messages in the queue that are no jobs: each is kept for a person, and the worker lives on."""

from __future__ import annotations

import json

from pynomaly_tasks.core.job import DeadReason, JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.jobs.submission import Submission
from pynomaly_tasks.queueing.kept import replay_message
from support.faulty_kinds import ACT
from support.jobs import Engine, EngineStarter
from support.raw_messages import REFUSED, UNREADABLE, expired_message, raw_message
from support.waiting import wait_until


def test_worker_lives_on_after_every_bad_message_and_keeps_each_in_the_dead_letters(
    engine: Engine, own_redis: RedisServer
) -> None:
    unknown = json.dumps(raw_message(task="pynomaly.tasks.nobody_knows")).encode()
    bad = [*UNREADABLE.values(), *REFUSED.values(), unknown]
    with own_redis.client(1) as broker:
        broker.lpush("default", *bad)

    worker = engine.worker()
    good = engine.wait_for(engine.submit())
    letters = wait_until(
        lambda: len(found := engine.platform.store.list_dead_letters(limit=100)) >= len(bad) and found,
        30,
        f"{len(bad)} dead letters",
    )

    assert worker.is_running()
    assert good.state is JobState.SUCCEEDED
    assert len(letters) == len(bad)
    assert {bytes(letter.payload) for letter in letters} >= set(UNREADABLE.values())
    assert [letter.kind for letter in letters if letter.reason is DeadReason.UNKNOWN_TASK] == [
        "pynomaly.tasks.nobody_knows"
    ]
    assert all(letter.message for letter in letters)
    with own_redis.client(1) as broker:
        assert broker.hlen("unacked") == 0


def test_message_whose_id_cannot_be_stored_is_a_dead_letter(
    start_engine: EngineStarter, own_redis: RedisServer, postgres_url: str
) -> None:
    engine = start_engine(own_redis.url, postgres_url)
    body = [[], {"effects": str(engine.effects.path)}, {"callbacks": None, "errbacks": [], "chain": [{}]}]
    message = raw_message(body)
    message["headers"]["id"] = "a\0b"
    with own_redis.client(1) as broker:
        broker.lpush("default", json.dumps(message))

    engine.worker()
    [letter] = engine.wait_for_letters(1)

    assert (letter.reason, letter.job_id) == (DeadReason.UNREADABLE, None)
    assert "task_id" in letter.message
    assert engine.wait_for(engine.submit()).state is JobState.SUCCEEDED


def test_stored_job_that_no_worker_knows_is_a_dead_letter(engine: Engine) -> None:
    engine.worker(app="workers.all")

    dead = engine.wait_for(engine.submit())

    assert (dead.kind, dead.state, dead.dead_reason) == (ACT.name, JobState.DEAD, DeadReason.UNKNOWN_TASK)
    assert len(engine.platform.store.list_dead_letters()) == 1


def test_message_of_another_process_that_expired_is_kept_and_can_be_run_after_all(
    engine: Engine, own_redis: RedisServer
) -> None:
    message = expired_message(effects=str(engine.effects.path), label="late")
    with own_redis.client(1) as broker:
        broker.lpush("default", json.dumps(message))
    engine.worker()

    [letter] = engine.wait_for_letters(1)
    job_id = replay_message(engine.platform, letter, {"label": "edited"})
    ended = wait_until(
        lambda: (job := engine.platform.store.find_job(job_id)) and job.state.is_final and job, 30, "its end"
    )

    assert (letter.reason, letter.job_id) == (DeadReason.DEADLINE_PASSED, None)
    assert job_id != message["headers"]["id"]
    assert (ended.state, ended.summary["label"]) == (JobState.SUCCEEDED, "edited")
    assert engine.platform.store.get_dead_letter(letter.id).replayed_as == job_id


def test_message_of_an_unknown_task_runs_when_it_is_replayed_where_the_task_is_known(
    engine: Engine, own_redis: RedisServer
) -> None:
    body = [[], {"effects": str(engine.effects.path)}, {"callbacks": None}]
    message = raw_message(body, task="pynomaly.tasks.act")
    with own_redis.client(1) as broker:
        broker.lpush("default", json.dumps(message))
    old = engine.worker(app="workers.all")
    [letter] = engine.wait_for_letters(1)
    old.stop(20.0)
    engine.worker()

    job_id = replay_message(engine.platform, letter, {})
    wait_until(lambda: engine.effects.list("end", job_id), 30, "the job to be done")

    assert (letter.reason, letter.kind) == (DeadReason.UNKNOWN_TASK, "pynomaly.tasks.act")
    assert job_id == message["headers"]["id"]


def test_wrong_arguments_of_another_process_are_kept_and_run_when_they_are_mended(
    engine: Engine, own_redis: RedisServer
) -> None:
    message = raw_message([[], {"effects": str(engine.effects.path), "nonsense": 1}, {}])
    with own_redis.client(1) as broker:
        broker.lpush("default", json.dumps(message))
    engine.worker()

    [letter] = engine.wait_for_letters(1)
    job_id = replay_message(engine.platform, letter, {"nonsense": None})
    again = replay_message(engine.platform, letter, {"nonsense": None})

    assert letter.reason is DeadReason.UNREADABLE
    assert "nonsense: there is no such field" in letter.message
    assert again == job_id
    assert engine.wait_for(engine.platform.store.get_job(job_id)).state is JobState.SUCCEEDED


def test_stored_job_whose_message_is_too_large_is_a_dead_letter(
    start_engine: EngineStarter, own_redis: RedisServer
) -> None:
    engine = start_engine(own_redis.url, env={"PYNOMALY_JOBS__MAX_REQUEST_KB": "1"})
    worker = engine.worker()
    large = Submission(
        kind=ACT.name, request=engine.request(), options={}, envelope={"headers": {"note": "x" * 1_100_000}}
    )

    dead = engine.wait_for(engine.platform.submitter.submit(large))
    good = engine.wait_for(engine.submit())

    assert (dead.state, dead.dead_reason) == (JobState.DEAD, DeadReason.UNREADABLE)
    [letter] = engine.wait_for_letters(1)
    assert letter.job_id == dead.id
    assert "the limit is 1016384" in letter.message
    assert good.state is JobState.SUCCEEDED
    assert worker.is_running()
