"""What the guard lets through and what it wraps."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynomaly_tasks.queueing.guard import UNREADABLE as UNREADABLE_TYPE
from pynomaly_tasks.queueing.guard import check, guarded
from support.raw_messages import UNREADABLE, raw_message


def test_message_of_celery_passes_unchanged() -> None:
    item = json.dumps(raw_message([[1], {"a": None}, {"chain": None}])).encode()

    assert guarded(item, "default") is item


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_message_is_wrapped_with_its_bytes_and_a_reason(name: str) -> None:
    wrapped = guarded(UNREADABLE[name], "reports")

    check(wrapped)
    message = json.loads(wrapped)
    assert base64.b64decode(message["body"]) == UNREADABLE[name]
    assert message["content-type"] == UNREADABLE_TYPE
    assert message["headers"]["why"]
    assert message["properties"]["delivery_info"]["routing_key"] == "reports"


@given(st.binary(max_size=300))
def test_any_bytes_become_a_message_that_can_be_read(item: bytes) -> None:
    check(guarded(item, "default"))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    part=st.sampled_from(["body", "headers", "properties", "content-type", "content-encoding"]),
    inner=st.sampled_from([None, "task", "id", "timelimit", "compression", "delivery_info", "body_encoding"]),
    value=_json,
)
def test_any_value_in_any_place_becomes_a_message_that_can_be_read(
    part: str, inner: str | None, value: object
) -> None:
    message = raw_message()
    if inner is None or not isinstance(message[part], dict):
        message[part] = value
    else:
        message[part][inner] = value

    check(guarded(json.dumps(message).encode(), "default"))
