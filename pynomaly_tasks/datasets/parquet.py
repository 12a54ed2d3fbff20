"""Reads Parquet in place: its columns have types, and each query reads only what it needs."""

from __future__ import annotations

import os
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from pynomaly_tasks.datasets.dataset import Column, ColumnKind, Relation
from pynomaly_tasks.datasets.engine import Engine, quoted_name, quoted_text
from pynomaly_tasks.datasets.limits import Limits
from pynomaly_tasks.datasets.source import Source, refused

ROW_NUMBER = "file_row_number"
_WHOLE = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
_TIMES = {"DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"}


def load(
    checked: Source, fd: int, engine: Engine, limits: Limits, checkpoint: Callable[[], None] | None
) -> Relation:
    """The file as a relation. Raises InvalidDataset when its footer is damaged or its shape is refused."""
    try:
        with os.fdopen(os.dup(fd), "rb") as file, pq.ParquetFile(file) as parquet:
            names, n_rows = list(parquet.schema_arrow.names), parquet.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise refused(f"{checked.source!r} is damaged Parquet: {str(error).splitlines()[0][:300]}") from error
    limits.check_names(checked.source, names)
    limits.check_rows(checked.source, n_rows)
    if not all(names) or ROW_NUMBER in (name.lower() for name in names):
        raise refused(f"{checked.source!r} has a column named '' or {ROW_NUMBER!r}; rename it")
    reader = f"read_parquet({quoted_text(engine.file)}, file_row_number=true)"
    described = engine.execute(f"DESCRIBE SELECT * EXCLUDE ({ROW_NUMBER}) FROM {reader}", checkpoint)
    columns, expressions = [], []
    for name, (_, type_, *_rest) in zip(names, described, strict=True):
        kind, expression = _read_as(str(type_), quoted_name(name))
        columns.append(Column(name=name, kind=kind, type=str(type_)))
        expressions.append(expression)
    before = _stamp(fd)
    return Relation(
        rows=reader,
        row_number=ROW_NUMBER,
        expressions=tuple(expressions),
        columns=tuple(columns),
        n_rows=n_rows,
        unchanged=lambda: _stamp(fd) == before,
    )


def _read_as(type_: str, column: str) -> tuple[ColumnKind, str]:
    if type_ in _WHOLE:
        return "number", f"CAST({column} AS BIGINT)"
    if type_ in {"FLOAT", "DOUBLE"}:
        return "number", f"CASE WHEN isnan({column}) THEN NULL ELSE CAST({column} AS DOUBLE) END"
    if type_.startswith("DECIMAL(") and type_.endswith(")"):
        return "number", f"CAST({column} AS DOUBLE)"
    if type_ in {"UBIGINT", "HUGEINT", "UHUGEINT"}:
        return "number", f"CAST({column} AS DOUBLE)"
    if type_ == "BOOLEAN":
        return "boolean", column
    if type_ in _TIMES:
        return "datetime", f"CAST({column} AS TIMESTAMP)"
    if type_.startswith("TIMESTAMP WITH TIME ZONE"):
        return "datetime", f"({column} AT TIME ZONE 'UTC')"
    return "text", f"CAST({column} AS VARCHAR)"


def _stamp(fd: int) -> tuple[int, int, int]:
    """Differs when the file was written to, deleted or replaced."""
    status = os.fstat(fd)
    return status.st_size, status.st_mtime_ns, status.st_nlink
