"""Which updates a client wants, and who wants this one, without asking every client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from pynomaly_tasks.realtime.streams import STREAM_NAMES
from pynomaly_tasks.realtime.update import Update

Owner = TypeVar("Owner")

#: Fields of a filter. Those that few updates pass come first: the first one given is looked up.
FIELDS = ("job_id", "dataset", "tag", "kind", "event", "stream")

_Values: TypeAlias = tuple[tuple[str, frozenset[str]], ...]


@dataclass(frozen=True, slots=True)
class Filter:
    """Passes an update that has one of the values in each field given; without fields, every update."""

    fields: _Values = ()

    @classmethod
    def of(cls, values: Mapping[str, Iterable[str]]) -> Filter:
        """The filter with these values; a field without any is not given."""
        given = [(name, frozenset(values.get(name, ()))) for name in FIELDS]
        return cls(tuple((name, wanted) for name, wanted in given if wanted))

    def get(self, name: str) -> frozenset[str]:
        """The values wanted in this field; none where any will do."""
        return next((wanted for field, wanted in self.fields if field == name), frozenset())

    def passes(self, update: Update) -> bool:
        """Whether the update is wanted."""
        return all(_has(update, name, wanted) for name, wanted in self.fields)


class FilterIndex(Generic[Owner]):
    """Finds who wants an update.

    A filter is kept under the values of its first field: an update asks those that may want it,
    not all. Owners that want everything are not asked at all.
    """

    def __init__(self) -> None:
        self._takes_all: dict[Owner, int] = {}
        self._by_value: dict[tuple[str, str], dict[tuple[Owner, Filter], int]] = {}

    def add(self, owner: Owner, which: Filter) -> None:
        """The owner wants what passes; the same filter may be added again, and is then held twice."""
        if not which.fields:
            self._takes_all[owner] = self._takes_all.get(owner, 0) + 1
            return
        name, wanted = which.fields[0]
        for value in wanted:
            holders = self._by_value.setdefault((name, value), {})
            holders[owner, which] = holders.get((owner, which), 0) + 1

    def remove(self, owner: Owner, which: Filter) -> None:
        """Take back what was added once. Raises KeyError when it was not."""
        if not which.fields:
            _take_one(self._takes_all, owner)
            return
        name, wanted = which.fields[0]
        for value in wanted:
            holders = self._by_value[name, value]
            _take_one(holders, (owner, which))
            if not holders:
                del self._by_value[name, value]

    def owners_of(self, update: Update) -> Iterable[Owner]:
        """Who wants it, each once."""
        if not self._by_value:
            return self._takes_all
        found: dict[Owner, None] = {}
        for name in FIELDS:
            for value in _values(update, name):
                for owner, which in self._by_value.get((name, value), ()):
                    if owner not in found and (len(which.fields) == 1 or which.passes(update)):
                        found[owner] = None
        if not found:
            return self._takes_all
        found.update(dict.fromkeys(self._takes_all))
        return found


_Key = TypeVar("_Key")


def _take_one(counts: dict[_Key, int], key: _Key) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


def _values(update: Update, name: str) -> tuple[str, ...]:
    return (STREAM_NAMES[update.stream],) if name == "stream" else update.keys.get(name, ())


def _has(update: Update, name: str, wanted: frozenset[str]) -> bool:
    return not wanted.isdisjoint(_values(update, name))
