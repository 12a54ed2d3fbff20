"""What a file shows of itself to the caller of a job, who reads it without loading a library.

Only what is certain is said: each field holds what every later reading of the same file will confirm.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass

#: Enough to see in most columns what they hold; few enough to cost a millisecond.
CELLS_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What is certain of a file."""

    names: tuple[str, ...] | None = None  #: of all columns, in order; None: not all were seen
    n_rows: int | None = None  #: None: not counted
    valueless: frozenset[str] = frozenset()  #: columns without any value
    constant: frozenset[str] = frozenset()  #: columns that hold one value at most
    not_numbers: frozenset[str] = frozenset()  #: columns that hold neither numbers nor booleans alone
    not_dates: frozenset[str] = frozenset()  #: columns that do not hold dates alone


_WORD = r"\s*(?!(?:inf|infinity|nan|true|false|epoch)\b)[^\W\d_]"
_LETTER_OR_DASH = re.compile(r"[^\W\d_]|-")
_NO_NUMBER = re.compile(rf"{_WORD}|\s*\d{{4}}-\d\d-\d\d", re.IGNORECASE)
_NO_DATE = re.compile(rf"{_WORD}|[+-]?\d+(?:\.\d+)?\Z", re.IGNORECASE)


def hold_no_number(cells: Collection[str]) -> bool:
    """Whether one of the cells can be neither a number nor true or false."""
    # One search through all cells is far cheaper than one a cell, and numbers seldom pass it.
    if _LETTER_OR_DASH.search("\n".join(cells)) is None:
        return False
    return any(map(_NO_NUMBER.match, cells))


def hold_no_date(cells: Collection[str]) -> bool:
    """Whether one of the cells can be no date."""
    return any(map(_NO_DATE.match, cells))


class Evidence:
    """Collects what the cells of each column prove.

    A column is looked at until it shows two different values; what it holds is judged by the cells up to
    there. So most files are judged by their first rows, and what is said is true of all.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._values: list[set[Hashable]] = [set() for _ in names]
        self._not_numbers: set[int] = set()
        self._not_dates: set[int] = set()
        self.undecided: list[int] = list(range(len(names)))  #: positions of the columns to look at
        self.n_rows_at_once = max(10, CELLS_AT_ONCE // max(1, len(names)))

    def add(self, position: int, values: Collection[Hashable], no_number: bool, no_date: bool) -> None:
        """The different values of one column in some more rows, and what they cannot be."""
        self._values[position].update(values)
        if no_number:
            self._not_numbers.add(position)
        if no_date:
            self._not_dates.add(position)

    def settle(self) -> None:
        """Leave out the columns that have shown two different values."""
        self.undecided = [at for at in self.undecided if len(self._values[at]) < 2]

    def preview(self, n_rows: int | None, *, saw_all: bool) -> Preview:
        """What is proven. saw_all: whether the undecided columns were looked at in every row."""
        undecided = self.undecided if saw_all else []
        return Preview(
            names=tuple(self._names),
            n_rows=n_rows,
            valueless=self._named(at for at in undecided if not self._values[at]),
            constant=self._named(at for at in undecided if len(self._values[at]) == 1),
            not_numbers=self._named(self._not_numbers),
            not_dates=self._named(self._not_dates),
        )

    def _named(self, positions: Iterable[int]) -> frozenset[str]:
        return frozenset(self._names[at] for at in positions)
