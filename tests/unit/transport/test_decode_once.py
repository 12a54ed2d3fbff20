"""Arguments that the main process has read go to the task without the message's body."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery
from celery.worker.request import Request
from kombu.serialization import registry

from pynomaly_tasks.transport.hand_over import decode_once

BODY = [[1, "two"], {"three": 3}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]


class Message:
    """As much of kombu's as a request looks at."""

    content_type, content_encoding = "application/json", "utf-8"
    headers: dict[str, Any] = {"id": "id", "task": "name", "argsrepr": "", "kwargsrepr": ""}
    delivery_info: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    body = json.dumps(BODY)
    payload = BODY


def given_request(app: Celery) -> Request:
    """What the pool gets."""

    @app.task(name="name", shared=False)
    def task(*args: object, **kwargs: object) -> None:
        raise AssertionError("nobody runs it here")

    given: list[Request] = []
    decode_once(given.append)(Request(Message(), app=app, task=task))
    return given[0]


def test_json_is_given_decoded() -> None:
    with Celery(set_as_current=False) as app:
        request = given_request(app)

    assert (request.body, request.content_type, request.content_encoding) == (BODY, None, None)


def test_what_the_application_decodes_itself_is_given_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._decoders, "application/json", json.loads)

    with Celery(set_as_current=False) as app:
        request = given_request(app)

    assert (request.body, request.content_type) == (Message.body, "application/json")
