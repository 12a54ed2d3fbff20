"""A table that was checked and can be read again and again: in batches, as a sample, or with SQL."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pynomaly_tasks.datasets.engine import Engine, mapped_errors, quoted_name
from pynomaly_tasks.datasets.limits import require_columns
from pynomaly_tasks.datasets.source import refused

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

ColumnKind = Literal["number", "text", "datetime", "boolean"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column as work code sees it.

    number is int64 or float64 with missing values null (never NaN; infinities stay), datetime is
    timestamp[us] in UTC without a zone, boolean bool, text string. Nested and binary values are text.
    """

    name: str  #: exactly as in the file
    kind: ColumnKind
    type: str = ""  #: duckdb's name of the stored type, such as ``BIGINT`` or ``STRUCT(a INTEGER)``


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """Where the rows lie inside the engine, and how each column is read from there."""

    rows: str  #: SQL after FROM
    row_number: str  #: SQL of the 0-based row number, in file order
    expressions: tuple[str, ...]  #: SQL of each column, in the file's order
    columns: tuple[Column, ...]
    n_rows: int
    warnings: tuple[str, ...] = ()
    unchanged: Callable[[], bool] = lambda: True  #: whether the file is still as it was


class Dataset:
    """An open dataset. Close it, use it in `with`, or let it go: its temporary files go with it."""

    def __init__(
        self, *, source: str, name: str, format_: str, size_bytes: int, engine: Engine, relation: Relation
    ):
        self.source = source
        self.name = name
        self.format = format_
        self.size_bytes = size_bytes
        self.n_rows = relation.n_rows
        self.columns = relation.columns
        self.warnings = relation.warnings  #: what was decided about the data that its owner should know
        self._engine = engine
        self._relation = relation
        self._expressions = dict(
            zip((column.name for column in relation.columns), relation.expressions, strict=True)
        )
        engine.execute(f'CREATE VIEW "data" AS SELECT {self._selected(None)} FROM {relation.rows}')
        self._finalizer = weakref.finalize(self, engine.close)

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the temporary files. Closing twice is fine."""
        self._finalizer()

    def batches(self, columns: Sequence[str] | None = None, n_rows: int = 50_000) -> Iterator[pa.RecordBatch]:
        """The rows in file order, in batches of up to n_rows; each call starts at the first row.

        Raises InvalidDataset for a column that is not there.
        """
        selected = self._selected(columns)
        with mapped_errors(self.source), contextlib.closing(self._engine.cursor()) as cursor:
            self._refuse_changed()
            yield from cursor.sql(f"SELECT {selected} FROM {self._relation.rows}").to_arrow_reader(n_rows)
            self._refuse_changed()

    def sample(self, n_rows: int, seed: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Up to n_rows different rows in file order; the same rows for the same seed, file and n_rows."""
        import numpy as np
        import pyarrow as pa

        selected = self._selected(columns)
        relation = self._relation
        with mapped_errors(self.source), contextlib.closing(self._engine.cursor()) as cursor:
            self._refuse_changed()
            if n_rows >= self.n_rows:
                return cursor.sql(f"SELECT {selected} FROM {relation.rows}").to_arrow_table()
            picked = np.random.default_rng(seed).choice(
                self.n_rows, size=n_rows, replace=False, shuffle=False
            )
            cursor.register("picked", pa.table({"row": np.sort(picked.astype(np.int64))}))
            return cursor.sql(
                f"SELECT {selected} FROM {relation.rows} "
                f"WHERE {relation.row_number} IN (SELECT row FROM picked) ORDER BY {relation.row_number}"
            ).to_arrow_table()

    def query(self, sql: str, checkpoint: Callable[[], None] | None = None) -> list[tuple[Any, ...]]:
        """The rows of an SQL query on the view ``data``.

        checkpoint is called five times a second meanwhile, in this thread; what it raises ends the query.
        """
        self._refuse_changed()
        rows = self._engine.execute(sql, checkpoint)
        self._refuse_changed()
        return rows

    @contextlib.contextmanager
    def connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A duckdb connection with the view ``data``; it reaches no other file, its settings are locked."""
        with mapped_errors(self.source), contextlib.closing(self._engine.cursor()) as cursor:
            self._refuse_changed()
            yield cursor
            self._refuse_changed()

    def require(self, columns: Sequence[str]) -> Sequence[str]:
        """The columns as given. Raises InvalidDataset for one that is not there, naming those that are."""
        require_columns(self.source, self._expressions, columns)
        return columns

    def _selected(self, columns: Sequence[str] | None) -> str:
        names = list(self._expressions) if columns is None else self.require(columns)
        return ", ".join(f"{self._expressions[name]} AS {quoted_name(name)}" for name in names)

    def _refuse_changed(self) -> None:
        if not self._relation.unchanged():
            raise refused(f"{self.source!r} was changed while it was read; submit the job again")
