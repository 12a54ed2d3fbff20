"""Task messages: made in another way than Celery's, and the same."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery
from celery.app import amqp as celery_amqp

from pynomaly_tasks.transport.amqp import AMQP

CALLS: list[dict[str, Any]] = [
    {},
    {"args": None, "kwargs": None},
    {"args": [1, "two"], "kwargs": {"three": 3}},
    {"args": (1,), "group_id": "group", "group_index": 0, "retries": 3, "shadow": "shadow"},
    {"root_id": "root", "parent_id": "parent", "reply_to": "me", "ignore_result": True},
    {"time_limit": 5, "soft_time_limit": 4.5, "replaced_task_nesting": 2},
    {
        "callbacks": [{"task": "a"}],
        "errbacks": [{"task": "b"}],
        "chain": [{"task": "c"}],
        "chord": {"task": "d"},
    },
    {"countdown": 0, "create_sent_event": True},
    {"countdown": 10, "now": datetime(2026, 1, 1, tzinfo=UTC)},
    {"eta": "2026-01-01T00:00:00Z", "expires": "2026-01-02T00:00:00Z"},
    {"eta": "", "expires": ""},
    {"expires": datetime(2026, 1, 1, tzinfo=UTC), "queue": "another"},
    {"stamped_headers": ["color"], "color": "blue"},
    {"origin": "me", "argsrepr": "hidden", "kwargsrepr": "hidden"},
    {"priority": 3, "routing_key": "elsewhere"},
]


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_message_is_celerys(call: dict[str, Any]) -> None:
    with Celery(set_as_current=False) as app:
        ours = AMQP(app).as_task_v2("id", "name", **call)
        theirs = celery_amqp.AMQP(app).as_task_v2("id", "name", **call)

    assert type(ours) is type(theirs)
    assert ours == theirs
    assert list(ours.headers) == list(theirs.headers)


def test_message_names_the_process_that_it_is_from(monkeypatch: pytest.MonkeyPatch) -> None:
    with Celery(set_as_current=False) as app:
        ours = AMQP(app).as_task_v2("id", "name").headers["origin"]
        monkeypatch.setattr(os, "getpid", lambda: 1_234)  # as a forked child finds another one
        childs = AMQP(app).as_task_v2("id", "name").headers["origin"]

    assert (ours.startswith("gen1234@"), childs.startswith("gen1234@")) == (False, True)
