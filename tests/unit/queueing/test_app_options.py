"""The app's options hold together, whatever the settings."""

from __future__ import annotations

import pytest

from pynomaly_tasks.kinds import KINDS
from pynomaly_tasks.queueing.app import QUEUES, TASK_PREFIX, build_app, celery_options, redis_priority
from pynomaly_tasks.settings import Settings


@pytest.fixture
def options() -> dict[str, object]:
    return celery_options(Settings())


def test_priorities_are_turned_round_one_by_one() -> None:
    assert [redis_priority(priority) for priority in range(10)] == list(range(9, -1, -1))


def test_every_kind_of_job_goes_to_the_queue_that_it_names(options: dict[str, object]) -> None:
    routes = options["task_routes"]
    assert isinstance(routes, dict)

    for kind in KINDS.values():
        assert routes[TASK_PREFIX + kind.name] == {"queue": kind.queue}
        assert kind.name in QUEUES[kind.queue]


def test_publish_to_a_broker_that_is_down_is_tried_once(options: dict[str, object]) -> None:
    transport = options["broker_transport_options"]
    assert isinstance(transport, dict)

    assert transport["max_retries"] == 0
    assert options["task_publish_retry"] is False


def test_checkpoint_signal_and_kill_come_in_this_order(options: dict[str, object]) -> None:
    limit_s = Settings().jobs.time_limit_s

    assert limit_s < options["task_soft_time_limit"] < options["task_time_limit"]  # type: ignore[operator]


def test_nothing_but_json_is_accepted(options: dict[str, object]) -> None:
    assert options["accept_content"] == ["json"]
    assert options["task_serializer"] == options["result_serializer"] == "json"


def test_settings_are_loaded_when_the_app_is_first_asked() -> None:
    loaded = []

    def load() -> Settings:
        loaded.append(True)
        return Settings()

    app = build_app(load)
    assert not loaded

    assert app.conf.task_acks_late is True
    assert loaded == [True]
