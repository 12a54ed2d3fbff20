"""Messages that nobody can read or do, between good ones: kept with their bytes and the reason."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from itertools import cycle

import pytest
from celery import Celery
from celery.result import AsyncResult

from pynomaly_tasks.embedded.redis_server import RedisServer
from support.malformed import MALFORMED, REFUSED, good_message
from support.processes import Programs
from support.transport import OURS, PLAIN, Fleet, close_results
from support.waiting import wait_until

BAD = {**MALFORMED, **REFUSED}
REASONS = dict(BAD.values())


@pytest.fixture
def fleet(own_redis: RedisServer, programs: Programs) -> Iterator[Fleet]:
    fleet = Fleet(own_redis, programs)
    yield fleet
    fleet.close()


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_malformed_messages_between_good_ones_are_kept_and_the_worker_lives(fleet: Fleet, pool: str) -> None:
    expect_only_bad_ones_kept(fleet, pool, queues=("celery", "reports"), n_good=len(BAD))


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_malformed_messages_between_1000_good_ones_on_each_queue_are_kept(fleet: Fleet, pool: str) -> None:
    queues = ("anomaly_detection", "data_processing", "reports", "notifications", "default")
    expect_only_bad_ones_kept(fleet, pool, queues=queues, n_good=1_000)


def expect_only_bad_ones_kept(fleet: Fleet, pool: str, *, queues: tuple[str, ...], n_good: int) -> None:
    """Every kind of bad message is in each queue, evenly between the good ones."""
    every = n_good // len(BAD)
    bad: dict[str, list[bytes]] = {queue: [] for queue in queues}
    for nth, queue in enumerate(queues):
        kinds = cycle(REASONS)
        with fleet.publisher(OURS) as ours, fleet.publisher(PLAIN) as plain:
            for number in range(n_good):
                (ours if number % 2 else plain)(nth * n_good + number, queue=queue)
                if number % every == 0:
                    bad[queue].append(next(kinds))
                    fleet.broker.lpush(queue, bad[queue][-1])
    worker = fleet.worker(OURS, "-Q", ",".join(queues), pool=pool)

    fleet.wait_for_ends(n_good * len(queues), timeout_s=200)
    fleet.submit(1_000_000, queue=queues[0])
    fleet.wait_for_start(1_000_000)
    wait_until(lambda: fleet.n_unacked() == 0, 5, "all to be settled")

    assert worker.is_running()
    assert worker.output().count(" ready.") == 1
    assert "WorkerLostError" not in worker.output()
    assert set(fleet.ended().values()) == {1}
    for queue in queues:
        letters = [json.loads(letter) for letter in fleet.dead(queue)]
        kept = [(base64.b64decode(letter["raw"]), letter["reason"]) for letter in letters]
        assert set(bad[queue]) == set(REASONS)
        assert sorted(raw for raw, _ in kept) == sorted(bad[queue])
        assert [(raw, reason) for raw, reason in kept if not re.search(REASONS[raw], reason)] == []
        assert {letter["queue"] for letter in letters} == {queue}


@pytest.mark.parametrize("body", [[[], {}, {}], [[1, 2, 3, 4], {}, {}], [[1], {"colour": "red"}, {}]])
def test_who_waits_for_a_task_with_wrong_arguments_is_told(fleet: Fleet, body: list[object]) -> None:
    results = f"{fleet.server.url}/3"
    raw, message, _ = good_message(body=body)
    fleet.worker(env={"TRANSPORT_RESULTS": results})

    fleet.broker.lpush("celery", raw)
    with Celery(set_as_current=False, backend=results) as app:
        with pytest.raises(TypeError, match="argument"):
            AsyncResult(message["headers"]["id"], app=app).get(timeout=20)
        close_results(app)

    wait_until(fleet.dead, 5, "the dead letter")
    assert fleet.started() == {}
