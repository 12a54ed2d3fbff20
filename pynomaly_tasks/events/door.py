"""What an application publishes is checked before it is accepted."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

import orjson
from pydantic import ValidationError

from pynomaly_tasks.core.event import Event
from pynomaly_tasks.core.event_data import EventData
from pynomaly_tasks.core.ids import new_id
from pynomaly_tasks.core.trace import is_traceparent
from pynomaly_tasks.errors import FieldProblem, InvalidInput
from pynomaly_tasks.events.catalog import CATALOG, Catalog

MAX_KEY_CHARACTERS = 255


def build_event(
    data: EventData,
    key: str,
    *,
    traceparent: str | None,
    topics: Collection[str],
    max_bytes: int,
    catalog: Catalog = CATALOG,
) -> Event:
    """The event, with a new id. Raises InvalidInput that names the field, the limit and the way out."""
    event_type = catalog.find(getattr(data, "type", ""))
    if event_type is None or event_type.model is not type(data):
        raise InvalidInput.of(
            "data",
            f"{type(data).__name__} is no type of the catalogue in its newest version; a type of your own is "
            "added with pynomaly_tasks.add_event_type, in every process that publishes or reads it",
        )
    if event_type.topic not in topics:
        raise InvalidInput.of(
            "data",
            f"its topic {event_type.topic!r} is not one of {', '.join(sorted(topics))}; see kafka.topics_file",
        )
    if not isinstance(key, str) or not 1 <= len(key) <= MAX_KEY_CHARACTERS or not key.isprintable():
        raise InvalidInput.of(
            "key", f"text of 1 to {MAX_KEY_CHARACTERS} printable characters, not {key!r:.100}"
        )
    if traceparent is not None and not is_traceparent(traceparent):
        raise InvalidInput.of("traceparent", f"not as W3C Trace Context writes it: {traceparent!r:.100}")
    try:
        content = orjson.dumps(data)
    except TypeError as error:
        raise InvalidInput.of("data", f"cannot be written as JSON: {error}") from error
    if len(content) > max_bytes:
        raise InvalidInput.of(
            "data",
            f"{len(content):,} bytes as JSON, at most {max_bytes:,} are taken: publish a link to what is large, "
            "or raise events.max_event_kb, and Kafka's max.message.bytes with it",
        )
    try:
        event_type.adapter.validate_json(content, strict=True)
    except ValidationError as error:
        raise InvalidInput(
            *(
                FieldProblem(field=".".join(("data", *map(str, one["loc"]))), message=one["msg"])
                for one in error.errors(include_url=False, include_input=False, include_context=False)
            )
        ) from error
    return Event(
        id=new_id(),
        type=event_type.type,
        version=event_type.version,
        topic=event_type.topic,
        key=key,
        occurred_at=datetime.now(UTC),
        data=orjson.loads(content),
        traceparent=traceparent,
    )
