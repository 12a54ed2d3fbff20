"""Messages in the queue that are no jobs: each is kept for a person, and the worker lives on."""

from __future__ import annotations

import json

from pynomaly_tasks.core.job import DeadReason, JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from support.faulty_kinds import ACT
from support.jobs import Engine
from support.raw_messages import REFUSED, UNREADABLE, raw_message
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


def test_stored_job_that_no_worker_knows_is_a_dead_letter(engine: Engine) -> None:
    engine.worker(app="workers.all")

    dead = engine.wait_for(engine.submit())

    assert (dead.kind, dead.state, dead.dead_reason) == (ACT.name, JobState.DEAD, DeadReason.UNKNOWN_TASK)
    assert len(engine.platform.store.list_dead_letters()) == 1
