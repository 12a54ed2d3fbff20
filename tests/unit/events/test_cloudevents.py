"""The codec of events: what goes out comes in, and whatever else comes in is refused with its reason."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from cloudevents.core.bindings.kafka import to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from pynomaly_tasks.core.event import JOB_EVENTS, Event, EventProblem
from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.core.job_events import JobStarted
from pynomaly_tasks.errors import BadEvent, EventRefused
from pynomaly_tasks.events.catalog import parse
from pynomaly_tasks.events.cloudevents import decode, encode
from pynomaly_tasks.events.ports import Headers, Record, StoredRecord

AT = datetime(2026, 11, 22, 10, 30, 0, 123456, tzinfo=UTC)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
DATA: dict[str, Any] = {
    "job_id": "job-1",
    "kind": "detect_anomalies",
    "queue": "anomaly_detection",
    "state": "running",
    "attempt": 1,
    "tags": ["nightly"],
    "dataset": "sales.csv",
    "worker": "w1@host",
}
EVENT = Event(
    id="0190-1",
    type="job.started",
    version=1,
    topic=JOB_EVENTS,
    key="orders",
    occurred_at=AT,
    data=DATA,
    traceparent=TRACE,
    source="/pynomaly",
)


def stored(record: Record) -> StoredRecord:
    """As the log gives it back."""
    return StoredRecord(
        topic=record.topic,
        key=record.key,
        value=record.value,
        headers=record.headers,
        partition=0,
        offset=7,
        at=AT,
    )


def binary(**headers: str | bytes | None) -> StoredRecord:
    """A good message with other headers; None leaves one out."""
    good = stored(encode(EVENT, "/pynomaly"))
    changed: dict[str, Any] = {**dict(good.headers), **{n.replace("__", "-"): v for n, v in headers.items()}}
    plain = {n: v.encode() if isinstance(v, str) else v for n, v in changed.items() if v is not None}
    return replace(good, headers=tuple(plain.items()))


def structured(content: object, headers: Headers | None = None) -> StoredRecord:
    """A message in structured mode."""
    return StoredRecord(
        topic=JOB_EVENTS,
        key=b"orders",
        value=content if isinstance(content, bytes) else json.dumps(content).encode(),
        headers=headers or (("content-type", b"application/cloudevents+json; charset=UTF-8"),),
        partition=0,
        offset=7,
        at=AT,
    )


def reason_of(record: StoredRecord, **options: Any) -> tuple[str, str]:
    """Why it is refused, and in which words."""
    with pytest.raises(BadEvent) as caught:
        decode(record, **options)
    return caught.value.reason, str(caught.value)


def attributes(**changes: Any) -> dict[str, Any]:
    """Of a good structured event."""
    good = {
        "specversion": "1.0",
        "id": "0190-1",
        "source": "/pynomaly",
        "type": "job.started",
        "time": "2026-11-22T10:30:00.123456Z",
        "datacontenttype": "application/json",
        "dataschema": "urn:pynomaly:event:job.started:1",
        "traceparent": TRACE,
        "data": DATA,
    }
    return {name: value for name, value in {**good, **changes}.items() if value != "absent"}


def test_an_event_comes_in_as_it_went_out() -> None:
    assert decode(stored(encode(EVENT, "/other"))) == EVENT


def test_the_installations_source_stands_in_for_one_that_is_not_set() -> None:
    record = encode(replace(EVENT, source=""), "/installation")

    assert decode(stored(record)).source == "/installation"


def test_an_event_goes_out_as_the_kafka_binding_asks() -> None:
    record = encode(EVENT, "/pynomaly")

    assert record.key == b"orders"
    assert dict(record.headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"0190-1",
        "ce_source": b"/pynomaly",
        "ce_type": b"job.started",
        "ce_subject": b"job-1",
        "ce_time": b"2026-11-22T10:30:00.123456Z",
        "content-type": b"application/json",
        "ce_dataschema": b"urn:pynomaly:event:job.started:1",
        "ce_partitionkey": b"orders",
        "ce_traceparent": TRACE.encode(),
    }
    assert json.loads(record.value or b"") == DATA


def test_a_structured_event_comes_in_too() -> None:
    cloud_event = CloudEvent({**attributes(data="absent"), "time": AT, "partitionkey": "orders"}, DATA)
    message = to_structured(cloud_event, JSONFormat())

    assert decode(structured(message.value)) == EVENT


def test_a_structured_event_may_hold_its_data_as_base64() -> None:
    content = attributes(data="absent", data_base64=b64encode(orjson.dumps(DATA)).decode())

    assert decode(structured(content)) == EVENT


def test_fields_of_a_later_compatible_schema_are_kept() -> None:
    data = {**DATA, "pool": "threads", "limits": {"memory_mb": 512}}

    assert decode(stored(encode(replace(EVENT, data=data), ""))).data == data


def test_an_event_without_time_has_that_of_the_log() -> None:
    assert decode(binary(ce_time=None)).occurred_at == AT


def test_a_traceparent_that_is_none_is_ignored() -> None:
    assert decode(binary(ce_traceparent="00-xyz")).traceparent is None


@pytest.mark.parametrize(
    ("record", "problem", "words"),
    [
        (replace(stored(encode(EVENT, "")), value=None), EventProblem.NULL_VALUE, "no value"),
        (replace(stored(encode(EVENT, "")), value=b"x" * 2**21), EventProblem.TOO_LARGE, "2,097,152 bytes"),
        (replace(stored(encode(EVENT, "")), headers=()), EventProblem.NOT_A_CLOUDEVENT, "no header ce_id"),
        (replace(stored(encode(EVENT, "")), key=b"\xff"), EventProblem.NOT_UTF8, "the key is no UTF-8"),
        (binary(ce_subject=b"\xff\xfe"), EventProblem.NOT_UTF8, "'ce_subject' is no UTF-8"),
        (binary(x__trace=b"\xff"), EventProblem.NOT_UTF8, "'x-trace' is no UTF-8"),
        (binary(ce_specversion="0.3"), EventProblem.NOT_A_CLOUDEVENT, "specversion"),
        (binary(ce_source=None), EventProblem.NOT_A_CLOUDEVENT, "source"),
        (binary(ce_type=None), EventProblem.NOT_A_CLOUDEVENT, "type"),
        (binary(ce_id=""), EventProblem.NOT_A_CLOUDEVENT, "id"),
        (binary(ce_id="a\x00b"), EventProblem.NOT_A_CLOUDEVENT, "id must be text of 1 to 200 characters"),
        (binary(ce_id="x" * 201), EventProblem.NOT_A_CLOUDEVENT, "id must be text of 1 to 200 characters"),
        (binary(**{"ce_Foo-Bar": "x"}), EventProblem.NOT_A_CLOUDEVENT, "foo-bar"),
        (binary(ce_type="job.exploded"), EventProblem.UNKNOWN_TYPE, "'job.exploded' is no type"),
        (binary(ce_dataschema="urn:pynomaly:event:job.started:2"), EventProblem.NEWER_VERSION, "of version 2"),
        (binary(ce_dataschema=None), EventProblem.UNKNOWN_VERSION, "None"),
        (binary(ce_dataschema="urn:pynomaly:event:job.failed:1"), EventProblem.UNKNOWN_VERSION, "job.failed:1"),
        (binary(ce_dataschema="urn:pynomaly:event:job.started:0"), EventProblem.UNKNOWN_VERSION, ":0"),
        (binary(ce_time="yesterday"), EventProblem.BAD_TIME, "RFC 3339"),
        (binary(ce_time="2026-11-22T10:30:00"), EventProblem.BAD_TIME, "RFC 3339"),
        (binary(ce_time="2026-02-30T10:30:00Z"), EventProblem.BAD_TIME, "day"),
        (binary(ce_time="0001-01-01T00:00:00+23:00"), EventProblem.BAD_TIME, "0001"),
        (binary(ce_time="9999-01-01T00:00:00Z"), EventProblem.BAD_TIME, "1970 and 9000"),
        (binary(content__type="text/xml"), EventProblem.NOT_JSON, "text/xml"),
        (replace(stored(encode(EVENT, "")), value=b""), EventProblem.NOT_JSON, "no JSON"),
        (replace(stored(encode(EVENT, "")), value=b"{"), EventProblem.NOT_JSON, "no JSON"),
        (replace(stored(encode(EVENT, "")), value=b"[]"), EventProblem.BAD_DATA, "the data"),
        (replace(stored(encode(EVENT, "")), value=b"\xff\xfe"), EventProblem.NOT_JSON, "no JSON"),
        (replace(stored(encode(EVENT, "")), value=b'{"attempt": NaN}'), EventProblem.NOT_JSON, "no JSON"),
        (structured(b"[" * 100_000), EventProblem.NOT_JSON, "no JSON"),
        (structured(b"5"), EventProblem.NOT_A_CLOUDEVENT, "a JSON object"),
        (structured(attributes(specversion="absent")), EventProblem.NOT_A_CLOUDEVENT, "specversion"),
        (structured(attributes(id="absent")), EventProblem.NOT_A_CLOUDEVENT, "id"),
        (structured(attributes(type=5)), EventProblem.NOT_A_CLOUDEVENT, "type"),
        (structured(attributes(time=5)), EventProblem.BAD_TIME, "RFC 3339"),
        (structured(attributes(data="absent")), EventProblem.BAD_DATA, "the data"),
        (structured(attributes(data_base64="*")), EventProblem.NOT_A_CLOUDEVENT, "base64"),
    ],
)  # fmt: skip
def test_what_is_no_event_is_refused_with_its_reason(
    record: StoredRecord, problem: EventProblem, words: str
) -> None:
    reason, message = reason_of(record)

    assert (reason, words in message) == (problem, True), message


@pytest.mark.parametrize(
    ("field", "value"),
    [("attempt", "1"), ("attempt", -1), ("state", "asleep"), ("tags", "nightly"), ("worker", None)],
)
def test_data_against_the_schema_is_refused_by_the_name_of_its_field(field: str, value: object) -> None:
    record = stored(encode(replace(EVENT, data={**DATA, field: value}), ""))

    reason, message = reason_of(record)

    assert reason == EventProblem.BAD_DATA
    assert message.startswith(f"{field}: ")


def test_data_without_a_required_field_is_refused_by_its_name() -> None:
    data = {name: value for name, value in DATA.items() if name != "worker"}

    assert reason_of(stored(encode(replace(EVENT, data=data), "")))[1].startswith("worker: ")


def test_a_header_that_is_there_twice_is_refused() -> None:
    good = binary()

    doubled = replace(good, headers=(*good.headers, ("CE_ID", b"other")))

    assert reason_of(doubled)[0] == EventProblem.NOT_A_CLOUDEVENT


def test_data_nested_deeper_than_it_could_be_written_again_is_refused() -> None:
    deep: Any = {}
    for _ in range(400):
        deep = {"a": deep}
    text = json.dumps({**DATA, "extra": deep}).encode()

    assert reason_of(replace(binary(), value=text))[0] == EventProblem.BAD_DATA
    assert reason_of(structured(attributes(data=json.loads(text))))[0] == EventProblem.NOT_JSON


def test_an_event_that_is_too_large_is_not_encoded() -> None:
    with pytest.raises(EventRefused, match=r"at most 1,000 are taken.*max_event_kb"):
        encode(replace(EVENT, data={"x": "y" * 1_000}), "", max_bytes=1_000)


def test_an_event_whose_data_is_no_json_is_not_encoded() -> None:
    with pytest.raises(EventRefused, match="no JSON"):
        encode(replace(EVENT, data={"x": object()}), "")


@pytest.mark.parametrize("field", ["key", "id", "type", "source", "traceparent"])
def test_an_event_with_half_a_character_is_not_encoded(field: str) -> None:
    with pytest.raises(EventRefused, match="no text"):
        encode(replace(EVENT, **{field: "\ud800"}), "")


def test_data_is_given_as_the_class_of_its_type() -> None:
    data = parse(EVENT)

    assert data == JobStarted(
        job_id="job-1",
        kind="detect_anomalies",
        queue="anomaly_detection",
        state=JobState.RUNNING,
        attempt=1,
        tags=("nightly",),
        dataset="sales.csv",
        worker="w1@host",
    )


NAMES = (
    st.sampled_from(sorted({*dict(encode(EVENT, "").headers), "ce_", "ce_data", "CE_ID", "x"})) | st.text()
)
TEXTS = st.binary() | st.text().map(str.encode) | st.sampled_from([v for _, v in encode(EVENT, "").headers])
VALUES = (
    st.none()
    | st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(sorted(DATA)), inner),
    ).map(lambda value: json.dumps(value).encode())
)


def survives(record: StoredRecord) -> None:
    """Decoded, or refused with a known reason; nothing else."""
    try:
        event = decode(record)
    except BadEvent as error:
        EventProblem(error.reason)
    else:
        assert event.occurred_at.tzinfo is UTC
        again = decode(stored(encode(event, "")))
        assert again == event


@given(key=st.none() | st.binary(), value=VALUES, headers=st.lists(st.tuples(NAMES, TEXTS)))
def test_no_bytes_do_more_than_be_refused(key: bytes | None, value: bytes | None, headers: Headers) -> None:
    survives(replace(binary(), key=key, value=value, headers=headers))


@given(
    changes=st.dictionaries(NAMES, TEXTS, max_size=3), value=st.none() | VALUES, key=st.none() | st.binary()
)
def test_no_change_of_a_good_message_does_more_than_be_refused(
    changes: dict[str, bytes], value: bytes | None, key: bytes | None
) -> None:
    good = binary()
    headers = {**dict(good.headers), **changes}
    survives(replace(good, headers=tuple(headers.items()), key=key, value=value or good.value))


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(changes=st.dictionaries(st.sampled_from(sorted(attributes())) | st.text(), JSONS, max_size=3))
def test_no_change_of_a_structured_event_does_more_than_be_refused(changes: dict[str, Any]) -> None:
    survives(structured(json.dumps({**attributes(), **changes}).encode()))


@given(changes=st.dictionaries(st.sampled_from(sorted(DATA)) | st.text(), JSONS, max_size=3))
def test_no_change_of_the_data_does_more_than_be_refused(changes: dict[str, Any]) -> None:
    survives(replace(binary(), value=json.dumps({**DATA, **changes}).encode()))
