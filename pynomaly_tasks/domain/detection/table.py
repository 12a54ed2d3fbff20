"""What detection reads: a table in batches, whoever opened it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa


class TableColumn(Protocol):
    """One column's name and kind."""

    @property
    def name(self) -> str:
        """As in the file."""

    @property
    def kind(self) -> str:
        """number, text, datetime or boolean."""


class Table(Protocol):
    """Rows of one file, in the file's order each time it is read."""

    @property
    def n_rows(self) -> int:
        """All rows."""

    @property
    def columns(self) -> Sequence[TableColumn]:
        """All columns."""

    def batches(self, columns: Sequence[str] | None = None, n_rows: int = 50_000) -> Iterator[pa.RecordBatch]:
        """The named columns in batches of up to ``n_rows``; memory does not grow with the file."""

    def sample(self, n_rows: int, seed: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Seeded rows in file order; the whole table when it has no more than ``n_rows``."""
