"""What processes say to one another over the broker: a line of JSON, and bytes behind it. And the topics' names."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import orjson

_SIZE = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one installation. Names are escaped where a topic cannot have their characters."""

    namespace: str

    def items(self, lane: str) -> str:
        """What is appended to a lane."""
        return f"{self.namespace}/lane/{lane}"

    def asks(self, lane: str) -> str:
        """Requests to the process that hosts a lane."""
        return f"{self.namespace}/ask/{lane}"

    def answers(self, process: str) -> str:
        """Answers to one process."""
        return f"{self.namespace}/to/{process}"

    def known(self, lane: str) -> str:
        """Retained while there is such a lane; ``+`` for all."""
        return f"{self.namespace}/known/{lane}"

    def record(self, name: str) -> str:
        """Retained: a record of the catalog."""
        return f"{self.namespace}/record/{quote(name, safe='')}"

    def held(self, lane: str, key: str) -> str:
        """Retained: how often an item was handed out, and to whom until when."""
        return f"{self.namespace}/held/{lane}/{key}"

    def note(self, key: str, member: str) -> str:
        """Retained: a member of a note."""
        return f"{self.namespace}/note/{quote(key, safe='')}/{quote(member, safe='')}"

    def notes(self, key: str) -> str:
        """All members of a note."""
        return f"{self.namespace}/note/{quote(key, safe='')}/+"

    @property
    def records(self) -> str:
        """All records."""
        return f"{self.namespace}/record/+"

    @property
    def gone(self) -> str:
        """Told by the broker when a process is lost."""
        return f"{self.namespace}/gone"

    @property
    def flush(self) -> str:
        """Nobody listens there: an acknowledgement of it says that all before it was read."""
        return f"{self.namespace}/flush"


def last_name(topic: str) -> str:
    """The escaped name at a topic's end."""
    return unquote(topic.rpartition("/")[2])


def pack(line: Any, blobs: Sequence[bytes] = ()) -> bytes:
    """One message of both."""
    head = orjson.dumps([line, [len(blob) for blob in blobs]])
    return b"".join((_SIZE.pack(len(head)), head, *blobs))


def unpack(data: bytes) -> tuple[Any, list[bytes]]:
    """Both of it. Raises ValueError for bytes that `pack` did not write."""
    if len(data) < _SIZE.size:
        raise ValueError("too short")
    (n_head,) = _SIZE.unpack_from(data)
    at = _SIZE.size + n_head
    found = orjson.loads(data[_SIZE.size : at])
    if not isinstance(found, list) or len(found) != 2:
        raise ValueError("no line and sizes")
    line, sizes = found
    blobs = []
    for size in sizes:
        blobs.append(data[at : at + size])
        at += size
    if at != len(data):
        raise ValueError("not of its size")
    return line, blobs
