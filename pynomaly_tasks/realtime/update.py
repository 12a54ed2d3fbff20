"""What is told to who watches: updates, and what is amiss with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

from pynomaly_tasks.realtime.position import Position
from pynomaly_tasks.realtime.streams import DASHBOARD, EntryId

#: Makes an update ready for the wire.
Encoder: TypeAlias = "Callable[[Update], bytes]"


@dataclass(slots=True, kw_only=True, eq=False)
class Update:
    """One entry of a stream, read and decoded once for all clients."""

    number: int  #: counts what this process has read, over all streams
    position: Position  #: of a client that has seen it
    stream: int  #: place in STREAMS
    entry: EntryId
    data: bytes  #: the JSON as it was published; ``null`` where it was none
    keys: Mapping[str, tuple[str, ...]]  #: what it is about, for filters: field to values
    state_of: str | None  #: what it gives the whole state of: a newer one takes its place
    _encoded: dict[Encoder, bytes] = field(default_factory=dict)

    def encoded(self, encode: Encoder) -> bytes:
        """``encode(self)``, made once however many clients ask for it."""
        made = self._encoded.get(encode)
        if made is None:
            made = self._encoded[encode] = encode(self)
        return made

    def seen_from(self, position: Position) -> Update:
        """This update for a client that had seen more of another stream: its id must not take it back."""
        joined = self.position.joined(position)
        if joined == self.position:
            return self
        return Update(
            number=self.number,
            position=joined,
            stream=self.stream,
            entry=self.entry,
            data=self.data,
            keys=self.keys,
            state_of=self.state_of,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Updates are missing between the one before and the one after: the present state is needed."""

    reason: str
    streams: tuple[str, ...]  #: whose
    position: Position | None  #: of a client that knows of it; None: it comes again where it left off


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A client that read slowly gets the newest state of each job; so many older ones were left out."""

    n_updates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Away:
    """Live updates cannot be read for now. Nothing is lost yet."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Back:
    """Live updates are read again; what happened meanwhile follows, or a Gap does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recap:
    """Here the client is owed the present state of what it watches; later updates wait until it has that."""


Item: TypeAlias = Update | Gap | Skipped | Away | Back | Recap


def build_update(number: int, stream: int, entry: EntryId, data: bytes, position: Position) -> Update:
    """The update that an entry holds. What is not our JSON is passed on too: it is about nothing."""
    try:
        content: Any = orjson.loads(data)
    except orjson.JSONDecodeError:
        content, data = None, b"null"
    keys: dict[str, tuple[str, ...]] = {}
    state_of = None
    if isinstance(content, dict):
        keys = _keys(content)
        if stream == DASHBOARD and "job_id" in keys:
            state_of = f"{content.get('type')} {keys['job_id'][0]}"
    return Update(
        number=number,
        position=position,
        stream=stream,
        entry=entry,
        data=data,
        keys=keys,
        state_of=state_of,
    )


def _keys(content: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """What filters look at. Frames of jobs have it at the top, those of other events in their ``data``."""
    inner = content.get("data")
    details = inner if isinstance(inner, dict) else {}
    keys: dict[str, tuple[str, ...]] = {}
    for name in ("job_id", "kind", "dataset", "event"):
        value = content.get(name, details.get(name))
        if isinstance(value, str):
            keys[name] = (value,)
    tags = content.get("tags", details.get("tags"))
    if isinstance(tags, list):
        keys["tag"] = tuple(tag for tag in tags if isinstance(tag, str))
    return keys
