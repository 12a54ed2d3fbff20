"""What the guard stops before kombu and Celery see it, and what it lets through unchanged."""

from __future__ import annotations

import json

import pytest

from pynomaly_tasks.transport.guard import Limits, Malformed, read
from pynomaly_tasks.transport.message import BODY_BYTES, READ_BODY
from support.malformed import MALFORMED, good_message

LIMITS = Limits(message_bytes=1_000_000, body_bytes=2_000_000, content_types=None)


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_message_is_stopped_with_a_reason(kind: str) -> None:
    raw, reason = MALFORMED[kind]

    with pytest.raises(Malformed, match=reason):
        read(raw, LIMITS)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"compression": "gzip"},
        {"compression": "bzip2"},
        {"headers": {"eta": "2026-11-22T10:00:00+00:00", "expires": "2026-11"}},
        {"headers": {"timelimit": [None, 2.5], "retries": 3}},
        {"headers": {"big": 2**70}},
    ],
    ids=str,
)
def test_good_message_passes_unchanged(changes: dict) -> None:  # type: ignore[type-arg]
    raw, message, body = good_message(**changes)

    passed = read(raw, LIMITS)

    assert passed.pop(READ_BODY) == body
    assert json.loads(passed.pop(BODY_BYTES)) == body
    assert passed == message


def test_special_numbers_that_kombu_takes_pass() -> None:
    raw, _, _ = good_message(body=[[float("inf"), 2**80], {}, None])

    assert read(raw, LIMITS)[READ_BODY] == [[float("inf"), 2**80], {}, None]


def test_message_that_is_no_task_needs_no_task_headers() -> None:
    raw, message, _ = good_message(headers=None, body={"any": "thing"})

    assert read(raw, LIMITS)["headers"] == {}
    assert message["headers"] == {}


def test_only_the_named_content_types_pass() -> None:
    limits = Limits(message_bytes=1_000, body_bytes=1_000, content_types=frozenset({"application/x-yaml"}))
    raw, _, _ = good_message()

    with pytest.raises(Malformed, match="application/x-yaml"):
        read(raw, limits)
