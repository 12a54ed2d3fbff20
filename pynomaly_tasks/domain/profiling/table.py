"""What profiling needs of a table. Everything is asked in SQL, so that duckdb can spill what does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledColumn:
    """A column to profile."""

    name: str
    kind: str  #: number, text, datetime or boolean
    type: str  #: as stored, shown and not interpreted


class Table(Protocol):
    """A table of a duckdb database; missing values are NULL, never NaN."""

    @property
    def n_rows(self) -> int:
        """At least 1."""

    @property
    def columns(self) -> Sequence[ProfiledColumn]:
        """What to profile, in the order of the result."""

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query on the view ``data``."""

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Arrow record batches, in file order."""

    def sample(self, n_rows: int, columns: Sequence[str]) -> Any:
        """An Arrow table of seeded, different rows; the same ones each time."""


def quoted(name: str) -> str:
    """A column name as an SQL identifier, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'
