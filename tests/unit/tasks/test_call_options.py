"""Celery's options become the platform's, and none is dropped without a word."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kombu import Queue

from pynomaly_tasks.errors import InvalidRequest
from pynomaly_tasks.jobs.options import JobOptions
from pynomaly_tasks.jobs.validation import validated
from pynomaly_tasks.tasks.call_options import envelope, job_options

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        ({"countdown": 5}, {"delay_s": 5}),
        ({"eta": NOON}, {"run_at": NOON}),
        ({"eta": NOON.replace(tzinfo=None)}, {"run_at": NOON}),
        ({"eta": "2030-01-01T12:00:00"}, {"run_at": NOON}),
        ({"eta": NOON, "countdown": 5}, {"run_at": NOON}),
        ({"expires": NOON}, {"deadline_at": NOON}),
        ({"queue": "reports"}, {"queue": "reports"}),
        ({"queue": Queue("reports")}, {"queue": "reports"}),
        ({"routing_key": "reports"}, {"queue": "reports"}),
        ({"queue": "default", "routing_key": "reports"}, {"queue": "default"}),
        ({"time_limit": 9}, {"time_limit_s": 9}),
        ({"soft_time_limit": 7, "time_limit": 9}, {"time_limit_s": 7}),
        ({"priority": 9, "tags": ["a"], "owner": "o"}, {"priority": 9, "tags": ["a"], "owner": "o"}),
        ({"serializer": "json"}, {}),
        ({"retry": True, "compression": "gzip", "add_to_parent": False, "link": [], "shadow": "x"}, {}),
        ({"priority": None, "countdown": None}, {}),
        ({"stamped_headers": ["tenant"], "tenant": "blue"}, {}),
    ],
)
def test_option_becomes(given: dict[str, Any], becomes: dict[str, Any]) -> None:
    assert job_options(given) == becomes


def test_expires_in_seconds_counts_from_now() -> None:
    deadline_at = job_options({"expires": 60})["deadline_at"]

    assert abs(deadline_at - datetime.now(UTC) - timedelta(seconds=60)) < timedelta(seconds=5)


def test_option_that_nobody_knows_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="colour: there is no such field"):
        validated(JobOptions, job_options({"colour": "red"}))


@pytest.mark.parametrize("option", [{"serializer": "pickle"}, {"expires": 1e300}, {"expires": float("nan")}])
def test_option_that_cannot_be_meant_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(option))):
        job_options(option)


def test_envelope_keeps_what_every_message_must_carry() -> None:
    kept = envelope(
        {"link": {"task": "t"}, "headers": {"a": 1}, "priority": 3, "chord": None, "group_id": "g"}
    )

    assert kept == {"link": [{"task": "t"}], "headers": {"a": 1}, "group_id": "g"}


def test_stamps_are_kept_with_their_values() -> None:
    assert envelope({"stamped_headers": ["tenant"], "tenant": "blue"}) == {
        "stamped_headers": ["tenant"],
        "stamps": {"tenant": "blue"},
    }


@pytest.mark.parametrize("value", [object(), {"x": float("nan")}, {"x": {1, 2}}])
def test_envelope_that_is_no_json_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match="headers: must be plain JSON"):
        envelope({"headers": value})
