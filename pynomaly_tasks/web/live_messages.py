"""What live clients may say, and what they are told, as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import orjson
from fastapi.sse import format_sse_event
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from pynomaly_tasks.realtime.filters import Filter
from pynomaly_tasks.realtime.position import Position
from pynomaly_tasks.realtime.streams import STREAM_NAMES
from pynomaly_tasks.realtime.update import Away, Back, Gap, Skipped, Update
from pynomaly_tasks.web.socket_protocol import text_frame

MAX_VALUES = 50  #: in one field of a filter
EXAMPLE_ID = "mi0v3k9c.0.0.mi0v3kaa-2"


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


_Value: TypeAlias = Annotated[str, Field(min_length=1, max_length=255)]
_Values: TypeAlias = Annotated[list[_Value], BeforeValidator(_listed), Field(max_length=MAX_VALUES)]
_Stream: TypeAlias = Literal["dashboard", "notifications", "health", "activity"]
_Streams: TypeAlias = Annotated[list[_Stream], BeforeValidator(_listed), Field(max_length=len(STREAM_NAMES))]


class FilterFields(BaseModel):
    """Which updates are wanted: those with one of the values in each field that is given."""

    model_config = ConfigDict(extra="forbid")

    job_id: _Values = Field([], description="Of these jobs.")
    dataset: _Values = Field([], description="About these datasets.")
    tag: _Values = Field([], description="Of jobs with one of these tags.")
    kind: _Values = Field([], description="Of jobs of these kinds.")
    event: _Values = Field([], description="These events, such as job.completed.")
    stream: _Streams = Field([], description="Of these streams.")

    def to_filter(self) -> Filter:
        """The same for the hub."""
        return Filter.of(self.model_dump())


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Subscribe(_Said):
    """Watch, under a name of the client's own."""

    type: Literal["subscribe"]
    name: Annotated[str, Field(min_length=1, max_length=64)]
    filter: FilterFields = FilterFields()
    last_event_id: str | None = Field(None, max_length=128, description="Where the client left off.")
    snapshot: bool = Field(False, description="Whether to begin with the present state of the jobs watched.")


class Unsubscribe(_Said):
    """Watch no longer."""

    type: Literal["unsubscribe"]
    name: Annotated[str, Field(min_length=1, max_length=64)]


class Ping(_Said):
    """Answered with a pong."""

    type: Literal["ping"]


Said: TypeAlias = Annotated[Subscribe | Unsubscribe | Ping, Field(discriminator="type")]
_SAID: TypeAdapter[Subscribe | Unsubscribe | Ping] = TypeAdapter(Said)


class Refused(Exception):
    """A message that cannot be done: which code, which field, what to do."""

    def __init__(self, code: str, field: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.field = field


def read_message(text: str) -> Subscribe | Unsubscribe | Ping:
    """What the client says. Raises Refused."""
    try:
        content = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Refused("bad_json", "", f"is not JSON: {error}") from error
    try:
        return _SAID.validate_python(content)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False, include_context=False)[0]) from error


def read_last_id(field: str, text: str) -> Position:
    """The position that a client gives back. Raises Refused."""
    position = Position.find(text)
    if position is None:
        raise Refused("bad_id", field, f"must be the id of an update, such as {EXAMPLE_ID}")
    return position


def _refusal(found: Any) -> Refused:
    path = [str(part) for part in found["loc"]]
    if path and path[0] in {"subscribe", "unsubscribe", "ping"}:
        path = path[1:]
    field = ".".join(path)
    if found["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        return Refused("unknown_type", "type", "must be one of subscribe, unsubscribe, ping")
    if found["type"] == "extra_forbidden":
        known = f"; the fields are {', '.join(FilterFields.model_fields)}" if path[0] == "filter" else ""
        return Refused("unknown_field", field, f"is not known here{known}")
    return Refused("invalid", field, found["msg"])


# --- what clients are told ------------------------------------------------------------------


def update_frame(update: Update) -> bytes:
    """The update as a WebSocket message, ready for the wire."""
    head = f'{{"type":"update","id":"{update.position}","stream":"{STREAM_NAMES[update.stream]}","data":'
    return text_frame(b"".join((head.encode(), update.data, b"}")))


def update_event(update: Update) -> bytes:
    """The update as a server-sent event."""
    return format_sse_event(event="update", id=str(update.position), data_str=update.data.decode())


def snapshot_frame(content: bytes) -> bytes:
    """The present state, which is JSON already, as a WebSocket message."""
    return text_frame(b'{"type":"snapshot",' + content[1:])


def snapshot_event(content: bytes) -> bytes:
    """The same as a server-sent event."""
    return format_sse_event(event="snapshot", data_str=content.decode())


def describe(item: Gap | Skipped | Away | Back) -> tuple[str, str | None, dict[str, Any]]:
    """Its type, the id that a client then has seen, and its content."""
    if isinstance(item, Gap):
        position = None if item.position is None else str(item.position)
        return "gap", position, {"streams": item.streams, "reason": item.reason}
    if isinstance(item, Skipped):
        return "skipped", None, {"n_updates": item.n_updates}
    if isinstance(item, Away):
        return "away", None, {"reason": item.reason}
    return "back", None, {}


def is_owed_snapshot(item: Gap | Skipped | Away | Back) -> bool:
    """Whether jobs may have changed without the client's knowing; one that is let go comes back for that."""
    return isinstance(item, Gap) and item.position is not None and "dashboard" in item.streams


def message(type_: str, position: Position | str | None = None, /, **content: Any) -> bytes:
    """A WebSocket message, ready for the wire."""
    head = {"type": type_} if position is None else {"type": type_, "id": str(position)}
    return text_frame(orjson.dumps(head | content))


def event(type_: str, position: Position | str | None = None, /, **content: Any) -> bytes:
    """A server-sent event, ready for the wire."""
    given = None if position is None else str(position)
    return format_sse_event(event=type_, id=given, data_str=orjson.dumps(content).decode())


def heartbeat_event(position: Position | None) -> bytes:
    """A comment. Its id is kept by the browser, so that a quiet client is not taken for one long away."""
    return format_sse_event(comment="heartbeat", id=None if position is None else str(position))
