"""pytest-celery's nodes on local processes: round trip, broker restart, worker SIGKILL, with plain Celery."""

from __future__ import annotations

import time

import redis
from pytest_celery import CeleryTestSetup

from support.waiting import wait_until

TIMEOUT_S = 30


def _client(setup: CeleryTestSetup, node: str) -> redis.Redis:
    return redis.Redis.from_url(getattr(setup, node).config()["url"])


def test_task_goes_round(celery_setup: CeleryTestSetup) -> None:
    result = celery_setup.app.send_task("tiny.add", (2, 3))

    assert result.get(timeout=TIMEOUT_S) == 5
    assert celery_setup.ready(ping=False, control=True, docker=True)


def test_worker_goes_on_after_the_broker_was_killed_and_restarted(celery_setup: CeleryTestSetup) -> None:
    assert celery_setup.app.send_task("tiny.add", (2, 3)).get(timeout=TIMEOUT_S) == 5

    celery_setup.broker.kill()
    celery_setup.broker.restart()

    assert celery_setup.app.send_task("tiny.add", (4, 5)).get(timeout=TIMEOUT_S) == 9


def test_task_of_a_killed_worker_runs_again_on_the_next(celery_setup: CeleryTestSetup) -> None:
    result = celery_setup.app.send_task("tiny.wait_for", ("gate",))
    with _client(celery_setup, "backend") as backend, _client(celery_setup, "broker") as broker:
        wait_until(lambda: backend.get("gate:starts") == b"1", TIMEOUT_S, "the task to start")

        celery_setup.worker.kill()
        # Redis gives it out again once it was unacknowledged for longer than the visibility timeout of 1 s.
        wait_until(lambda: _oldest_unacked_s(broker) > 1.2, TIMEOUT_S, "the visibility timeout to pass")
        celery_setup.worker.restart()
        wait_until(lambda: backend.get("gate:starts") == b"2", TIMEOUT_S, "the task to start again")
        backend.rpush("gate", "go")

    assert result.get(timeout=TIMEOUT_S) == 2


def test_node_shows_its_processes_and_logs(celery_setup: CeleryTestSetup) -> None:
    worker = celery_setup.worker

    rows = worker.get_running_processes_info(["pid", "cmdline"])

    assert len(rows) >= 2  # the parent, and a child of its pool
    worker.assert_log_exists("ready.")
    assert list(celery_setup.app.control.inspect(timeout=5).ping()) == [worker.hostname()]


def _oldest_unacked_s(broker: redis.Redis) -> float:
    oldest = broker.zrange("unacked_index", 0, 0, withscores=True)
    return time.time() - oldest[0][1] if oldest else 0.0
