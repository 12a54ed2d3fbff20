"""Events as CloudEvents 1.0 in the messages of a log: binary mode out, binary and structured mode in."""

from __future__ import annotations

import re
from base64 import b64decode
from datetime import UTC, datetime
from typing import Any

import orjson
from cloudevents.core.base import BaseCloudEvent, EventFactory
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary, from_structured, to_binary
from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.formats.base import Format
from cloudevents.core.v1.event import CloudEvent
from pydantic import ValidationError

from pynomaly_tasks.core.event import Event, EventProblem
from pynomaly_tasks.core.trace import is_traceparent
from pynomaly_tasks.errors import BadEvent, EventRefused
from pynomaly_tasks.events.catalog import CATALOG, Catalog, EventType, schema_id
from pynomaly_tasks.events.ports import Record, StoredRecord

#: Of a value; the setting ``events.max_event_kb``.
MAX_EVENT_BYTES = 512 * 1024
_MAX_MESSAGE_CHARACTERS = 500

_JSON_TYPE = "application/json"
_IS_JSON = re.compile(r"(application|text)/([a-z0-9.-]+\+)?json *(;.*)?", re.IGNORECASE)
_IS_STRUCTURED = re.compile(r"application/cloudevents\+json *(;.*)?", re.IGNORECASE)
# RFC 3339, which CloudEvents asks for, is narrower than ISO 8601.
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
#: What becomes a row's id or the name of a topic's key: text that every database takes.
_PLAIN = re.compile(r"[^\x00-\x1f\x7f]+")
_MAX_CHARACTERS = {"id": 200, "source": 255, "type": 100}


class _Json(Format):
    """The SDK's JSON format with a strict parser; the data stays bytes until its type is known."""

    def read(self, event_factory: EventFactory | None, data: str | bytes) -> BaseCloudEvent:
        """A structured event. Raises BadEvent."""
        attributes = _loads(data, "the event")
        if not isinstance(attributes, dict):
            raise bad_event(EventProblem.NOT_A_CLOUDEVENT, "a structured event is a JSON object")
        body, base64 = attributes.pop("data", None), attributes.pop("data_base64", None)
        # The format's null is an attribute that is not there.
        attributes = {name: value for name, value in attributes.items() if value is not None}
        if "time" in attributes:
            attributes["time"] = _instant(attributes["time"])
        content = _dumps(body) if base64 is None else _from_base64(base64)
        return (event_factory or CloudEvent)(attributes, content)

    def write(self, event: BaseCloudEvent) -> bytes:
        """A structured event."""
        data = event.get_data()
        body = orjson.Fragment(data) if isinstance(data, bytes) else data
        return orjson.dumps({**event.get_attributes(), "data": body}, option=orjson.OPT_UTC_Z)

    def write_data(self, data: dict[str, Any] | str | bytes | None, datacontenttype: str | None) -> bytes:
        """The value of a message in binary mode."""
        return data if isinstance(data, bytes) else orjson.dumps(data)

    def read_data(self, body: bytes, datacontenttype: str | None) -> bytes:
        """Left as it is."""
        return body

    def get_content_type(self) -> str:
        """Of structured mode."""
        return "application/cloudevents+json"


_FORMAT = _Json()


def encode(
    event: Event, source: str, *, max_bytes: int = MAX_EVENT_BYTES, catalog: Catalog = CATALOG
) -> Record:
    """The event as a message in binary mode: attributes in headers, data as the value.

    Raises EventRefused when the data is no JSON or larger than ``max_bytes``.
    """
    try:
        value = orjson.dumps(event.data, default=dict)
    except TypeError as error:
        raise EventRefused(f"event {event.id} ({event.type}): its data is no JSON: {error}") from error
    if len(value) > max_bytes:
        raise EventRefused(
            f"event {event.id} ({event.type}) has {len(value):,} bytes of data, at most {max_bytes:,} are taken; "
            "raise events.max_event_kb, and Kafka's max.message.bytes with it"
        )
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source or source,
        "type": event.type,
        "subject": _subject(event, catalog.find(event.type)),
        "time": event.occurred_at,
        "datacontenttype": _JSON_TYPE,
        "dataschema": schema_id(event.type, event.version),
        "partitionkey": event.key,
    }
    if event.traceparent is not None:
        attributes["traceparent"] = event.traceparent
    try:
        key = event.key.encode()
        message = to_binary(CloudEvent(attributes, value), _FORMAT)
    except CloudEventValidationError as error:
        raise EventRefused(f"event {event.id} ({event.type}) is no CloudEvent: {_in_words(error)}") from error
    except UnicodeEncodeError as error:
        raise EventRefused(f"event {event.id!r} ({event.type!r}) holds what is no text: {error}") from error
    return Record(
        topic=event.topic,
        key=key,
        value=message.value,
        headers=tuple(message.headers.items()),
    )


def decode(record: StoredRecord, *, max_bytes: int = MAX_EVENT_BYTES, catalog: Catalog = CATALOG) -> Event:
    """The event of a message, its data checked against its type's schema.

    Fields that the schema does not name are kept: a later version of it that is compatible may
    have them. Raises BadEvent, and nothing else, for any bytes.
    """
    if record.value is None:
        raise bad_event(EventProblem.NULL_VALUE, "the message has no value")
    if len(record.value) > max_bytes:
        raise bad_event(
            EventProblem.TOO_LARGE,
            f"the value has {len(record.value):,} bytes, at most {max_bytes:,} are taken",
        )
    attributes, content = _read(record)
    for name, limit in _MAX_CHARACTERS.items():
        _require_plain(name, attributes.get(name, ""), limit)
    event_type = _type_of(attributes["type"], attributes.get("dataschema"), catalog)
    content_type = attributes.get("datacontenttype")
    if content_type is not None and not _IS_JSON.fullmatch(content_type):
        raise bad_event(EventProblem.NOT_JSON, f"the data is {content_type[:100]!r}, not {_JSON_TYPE}")
    traceparent = attributes.get("traceparent")
    return Event(
        id=attributes["id"],
        type=event_type.type,
        version=event_type.version,
        topic=record.topic,
        key=str(attributes.get("partitionkey") or attributes["id"]),
        occurred_at=attributes["time"],
        data=_data(content, event_type),
        traceparent=traceparent if isinstance(traceparent, str) and is_traceparent(traceparent) else None,
        source=attributes["source"],
    )


def _read(record: StoredRecord) -> tuple[dict[str, Any], bytes]:
    """Attributes and data, through the SDK's binding. Raises BadEvent."""
    headers, occurred_at = _headers(record)
    key = None if record.key is None else _text(record.key, "the key")

    def build(attributes: dict[str, Any], data: Any) -> CloudEvent:
        # Else the SDK would draw an id and take the time of reading.
        for name in ("specversion", "id"):
            if name not in attributes:
                raise bad_event(EventProblem.NOT_A_CLOUDEVENT, f"the attribute {name} is missing")
        attributes.setdefault("time", occurred_at)
        return CloudEvent(attributes, data)

    structured = _IS_STRUCTURED.fullmatch(headers.get("content-type", b"").decode()) is not None
    if not structured and "ce_id" not in headers:
        raise bad_event(
            EventProblem.NOT_A_CLOUDEVENT,
            "there is no header ce_id, and the content-type is not application/cloudevents+json",
        )
    message = KafkaMessage(headers=headers, key=key, value=record.value or b"")
    try:
        read = (from_structured if structured else from_binary)(message, _FORMAT, build)
    except CloudEventValidationError as error:
        raise bad_event(EventProblem.NOT_A_CLOUDEVENT, _in_words(error)) from error
    data = read.get_data()
    assert isinstance(data, bytes), "the format leaves it so"
    return read.get_attributes(), data


def _headers(record: StoredRecord) -> tuple[dict[str, bytes], datetime]:
    """The headers of a CloudEvent, and its time: the one it says, or else when the log took it."""
    found: dict[str, bytes] = {}
    occurred_at = record.at
    for header, value in record.headers:
        name = header.lower()
        text = _text(value, f"the header {name[:100]!r}")
        if name == "ce_time":
            occurred_at = _instant(text)
        if name.startswith("ce_") or name == "content-type":
            if name in found:
                raise bad_event(EventProblem.NOT_A_CLOUDEVENT, f"the header {name[:100]} is there twice")
            found[name] = value
    found.pop("ce_time", None)
    return found, occurred_at


def _type_of(name: str, dataschema: str | None, catalog: Catalog) -> EventType:
    newest = catalog.find(name)
    if newest is None:
        raise bad_event(
            EventProblem.UNKNOWN_TYPE,
            f"{name!r} is no type of the catalogue; a type of your own is added with `add_event_type` in every "
            "process that reads it",
        )
    if dataschema == newest.schema_id:
        return newest
    known = catalog.find_schema(dataschema or "")
    if known is not None and known.type == name:
        return known
    version = (dataschema or "").removeprefix(schema_id(name, 0)[:-1])
    if version.isascii() and version.isdecimal() and len(version) <= 9 and int(version) > newest.version:
        raise bad_event(
            EventProblem.NEWER_VERSION,
            f"{name} is of version {version}, this process knows {newest.version}: update it, then replay",
        )
    raise bad_event(
        EventProblem.UNKNOWN_VERSION,
        f"dataschema is {dataschema and dataschema[:200]!r}, which names no version of {name}; the newest is {newest.schema_id}",
    )


def _data(content: bytes, event_type: EventType) -> dict[str, Any]:
    data = _loads(content, "the data")
    try:
        event_type.adapter.validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the data"
        raise bad_event(
            EventProblem.BAD_DATA, f"{where[:200]}: {first['msg']} (schema {event_type.schema_id})"
        ) from error
    assert isinstance(data, dict), "every schema is an object's"
    return data


def _loads(content: bytes | str, what: str) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise bad_event(EventProblem.NOT_JSON, f"{what} is no JSON: {error}") from error


def _dumps(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError as error:  # JSON may be nested deeper in than out
        raise bad_event(EventProblem.NOT_JSON, f"the data cannot be written again: {error}") from error


def _from_base64(text: object) -> bytes:
    try:
        return b64decode(str(text), validate=True)
    except ValueError as error:
        raise bad_event(EventProblem.NOT_A_CLOUDEVENT, f"data_base64 is no base64: {error}") from error


def _instant(text: object) -> datetime:
    if not isinstance(text, str) or not _TIME.fullmatch(text):
        raise bad_event(
            EventProblem.BAD_TIME,
            f"time is {str(text)[:100]!r}, not as RFC 3339 writes it: 2026-01-31T23:59:59Z",
        )
    try:
        instant = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise bad_event(EventProblem.BAD_TIME, f"time is {text!r}: {error}") from error
    if not _EARLIEST <= instant <= _LATEST:
        raise bad_event(EventProblem.BAD_TIME, f"time is {text!r}, not between the years 1970 and 9000")
    return instant


def _text(value: object, what: str) -> str:
    if not isinstance(value, bytes):
        raise bad_event(EventProblem.NOT_UTF8, f"{what} has no value")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise bad_event(
            EventProblem.NOT_UTF8, f"{what} is no UTF-8: {error.reason} at {error.start}"
        ) from error


def _require_plain(name: str, value: object, limit: int) -> None:
    if not isinstance(value, str) or not _PLAIN.fullmatch(value) or len(value) > limit:
        raise bad_event(
            EventProblem.NOT_A_CLOUDEVENT,
            f"{name} must be text of 1 to {limit} characters, none of them a control character",
        )


def _in_words(error: CloudEventValidationError) -> str:
    return "; ".join(str(each) for problems in error.errors.values() for each in problems)


def bad_event(problem: EventProblem, message: str) -> BadEvent:
    """The error, its message short enough for a header."""
    return BadEvent(
        problem,
        message if len(message) <= _MAX_MESSAGE_CHARACTERS else message[:_MAX_MESSAGE_CHARACTERS] + " ...",
    )


def _subject(event: Event, event_type: EventType | None) -> str:
    subject = event.data.get(event_type.subject_field) if event_type and event_type.subject_field else None
    return subject if isinstance(subject, str) and subject else event.key
