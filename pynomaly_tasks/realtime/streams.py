"""The Redis Streams that people's dashboards watch, and the order of their entries."""

from __future__ import annotations

import re
from typing import NamedTuple, Self

DASHBOARD_STREAM = "dashboard:stream"  #: state and progress of jobs
NOTIFICATIONS_STREAM = "notifications:stream"
HEALTH_STREAM = "health:stream"
ACTIVITY_STREAM = "activity:stream"
STREAMS = (DASHBOARD_STREAM, NOTIFICATIONS_STREAM, HEALTH_STREAM, ACTIVITY_STREAM)  #: as in a Position
DASHBOARD = STREAMS.index(DASHBOARD_STREAM)
STREAM_NAMES = tuple(stream.removesuffix(":stream") for stream in STREAMS)  #: as people name them


DATA_FIELD = "data"  #: each entry has this one field: the update as JSON

_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})\Z")
_LARGEST = 2**64


class EntryId(NamedTuple):
    """The place of an entry in its stream. Later entries compare greater.

    >>> EntryId.parse("1700000000000-2") < EntryId.parse("1700000000000-10")
    True
    """

    at_ms: int
    number: int

    @classmethod
    def find(cls, text: str) -> Self | None:
        """The id that ``text`` spells, or None when it is none."""
        match = _ID.match(text)
        if match is None:
            return None
        at_ms, number = int(match[1]), int(match[2])
        return cls(at_ms, number) if at_ms < _LARGEST and number < _LARGEST else None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The id that Redis gave. Raises ValueError on anything else."""
        entry_id = cls.find(text)
        if entry_id is None:
            raise ValueError(f"{text!r} is not the id of a stream entry, such as 1700000000000-0")
        return entry_id

    def __str__(self) -> str:
        return f"{self.at_ms}-{self.number}"


BEGINNING = EntryId(0, 0)  #: before every entry
