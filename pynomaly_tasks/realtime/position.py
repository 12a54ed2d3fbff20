"""How far a client is in all live streams, as one short text: what it sends back as Last-Event-ID."""

from __future__ import annotations

from typing import NamedTuple, Self

from pynomaly_tasks.realtime.streams import BEGINNING, STREAMS, EntryId

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_MAX_CHARS = 128
_LARGEST = 2**64


class Position(NamedTuple):
    """The last entry seen of each stream, in the order of STREAMS. Its text is for no one but us to read.

    >>> here = Position.parse("mi0v3k9c.0.0.mi0v3kaa-2")
    >>> here.entries[3]
    EntryId(at_ms=1763245926514, number=2)
    >>> str(here)
    'mi0v3k9c.0.0.mi0v3kaa-2'
    """

    entries: tuple[EntryId, ...]

    @classmethod
    def find(cls, text: str) -> Self | None:
        """The position that ``text`` spells, or None when it is none."""
        parts = text.split(".") if len(text) <= _MAX_CHARS else []
        entries = [_find_entry(part) for part in parts]
        if len(entries) != len(STREAMS):
            return None
        found = tuple(entry for entry in entries if entry is not None)
        return cls(found) if len(found) == len(STREAMS) else None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The position that we gave. Raises ValueError on anything else."""
        position = cls.find(text)
        if position is None:
            raise ValueError(f"{text!r} is not the id of a live update")
        return position

    def moved(self, stream: int, entry: EntryId) -> Position:
        """The position after that entry of one stream."""
        return Position((*self.entries[:stream], entry, *self.entries[stream + 1 :]))

    def joined(self, other: Position) -> Position:
        """The position of one who has seen what either has."""
        return Position(tuple(map(max, self.entries, other.entries)))

    def __str__(self) -> str:
        return ".".join(_spell(entry) for entry in self.entries)


START = Position((BEGINNING,) * len(STREAMS))


def _spell(entry: EntryId) -> str:
    return f"{_base36(entry.at_ms)}-{_base36(entry.number)}" if entry.number else _base36(entry.at_ms)


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits or "0"


def _find_entry(text: str) -> EntryId | None:
    at, dash, number = text.partition("-")
    parts = (at, number) if dash else (at, "0")
    if any(not part or len(part) > 13 or not set(part) <= set(_DIGITS) for part in parts):
        return None
    entry = EntryId(int(parts[0], 36), int(parts[1], 36))
    return entry if max(entry) < _LARGEST else None
