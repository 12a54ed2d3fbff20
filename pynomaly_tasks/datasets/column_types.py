"""Which kind of values a column of text holds. The rule looks at every row:

a number, when every cell that is not missing reads as one, and none is a whole number that float64
cannot hold (2^53 and more: an identifier, kept as text); a datetime, when every cell reads as an ISO
date or time (without an offset: UTC); a boolean, when every cell is true or false; else text. A column
without any value is a number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from pynomaly_tasks.datasets.dataset import Column, ColumnKind, Relation
from pynomaly_tasks.datasets.engine import Engine
from pynomaly_tasks.datasets.limits import Limits
from pynomaly_tasks.datasets.source import refused

TABLE = "loaded"
EXACT_WHOLE_NUMBERS = 2**53


class StoredType(Enum):
    """What a column is loaded as; ``sql`` is duckdb's type."""

    NUMBER = "number"
    INSTANT = "datetime"
    FLAG = "boolean"
    TEXT = "text"

    @property
    def sql(self) -> str:
        """FLAG is loaded as text, because duckdb takes 1 and t for true as well."""
        return {"number": "DOUBLE", "datetime": "TIMESTAMPTZ"}.get(self.value, "VARCHAR")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What all rows of the loaded table say about one column."""

    kind: ColumnKind
    type: str
    expression: str
    n_infinite: int = 0
    is_doubtful: bool = False  #: holds numbers that float64 may have rounded


def guess_types(
    engine: Engine, rows: str, n_columns: int, checkpoint: Callable[[], None] | None
) -> list[StoredType]:
    """The rule, on the text columns c0, c1, ... of some rows (SQL from FROM on)."""
    facts = ", ".join(
        f"count(c{at}), count(try_cast(c{at} AS DOUBLE)), count(try_cast(c{at} AS TIMESTAMPTZ)), "
        f"bool_and(strlen(c{at}) <= 5 AND lower(c{at}) IN ('true', 'false')), "
        f"bool_or(strlen(c{at}) >= 16 AND regexp_full_match(c{at}, '\\s*[+-]?0*[1-9][0-9]{{15,}}\\s*') "
        f"AND abs(try_cast(c{at} AS DOUBLE)) >= {EXACT_WHOLE_NUMBERS})"
        for at in range(n_columns)
    )
    (row,) = engine.execute(f"SELECT {facts} FROM (SELECT * {rows})", checkpoint)
    return [_typed(*row[at : at + 5]) for at in range(0, len(row), 5)]


def _typed(
    n: object, n_numbers: object, n_instants: object, all_flags: object, too_long: object
) -> StoredType:
    if n == n_numbers:
        return StoredType.TEXT if too_long else StoredType.NUMBER
    if n == n_instants:
        return StoredType.INSTANT
    return StoredType.FLAG if all_flags else StoredType.TEXT


def settle_columns(
    engine: Engine, types: Sequence[StoredType], checkpoint: Callable[[], None] | None
) -> tuple[int, list[Settled]]:
    """Rows of the loaded table, and its columns, narrowed where every value allows it."""
    facts = "".join(", " + _facts(f"c{at}", type_) for at, type_ in enumerate(types))
    (row,) = engine.execute(f"SELECT count(*){facts} FROM {TABLE}", checkpoint)
    settled = [
        _settled(engine.source, at, type_, row[1 + 3 * at : 4 + 3 * at]) for at, type_ in enumerate(types)
    ]
    n_rows = row[0]
    assert isinstance(n_rows, int)
    return n_rows, settled


def _facts(column: str, type_: StoredType) -> str:
    """Three aggregates; what they mean depends on the type."""
    if type_ is StoredType.NUMBER:
        finite = f"isfinite({column})"
        largest = f"max(abs({column})) FILTER ({finite})"
        return (
            f"bool_and({finite} AND {column} = trunc({column})), "
            f"{largest} >= {EXACT_WHOLE_NUMBERS}, count(*) FILTER (isinf({column}))"
        )
    if type_ is StoredType.INSTANT:
        return f"bool_and(epoch_us({column}) % 86400000000 = 0), NULL, NULL"
    all_flags = f"bool_and(lower({column}) IN ('true', 'false'))" if type_ is StoredType.FLAG else "false"
    return f"{all_flags}, bool_or(contains({column}, chr(0))), NULL"


def _settled(source: str, at: int, type_: StoredType, facts: Sequence[object]) -> Settled:
    narrow, doubtful, n_infinite = facts
    column = f"c{at}"
    if type_ is StoredType.NUMBER:
        assert n_infinite is None or isinstance(n_infinite, int)
        if narrow and not doubtful:
            return Settled(kind="number", type="BIGINT", expression=f"CAST({column} AS BIGINT)")
        return Settled(
            kind="number",
            type="DOUBLE",
            expression=f"CASE WHEN isnan({column}) THEN NULL ELSE {column} END",
            n_infinite=n_infinite or 0,
            is_doubtful=bool(doubtful),
        )
    if type_ is StoredType.INSTANT:
        expression = f"({column} AT TIME ZONE 'UTC')"
        return Settled(kind="datetime", type="DATE" if narrow else "TIMESTAMP", expression=expression)
    if doubtful:
        raise refused(f"{source!r} is not text: column {at + 1} holds a NUL character")
    if narrow:
        return Settled(kind="boolean", type="BOOLEAN", expression=f"(lower({column}) = 'true')")
    return Settled(kind="text", type="VARCHAR", expression=column)


def build_relation(
    source: str,
    names: Sequence[str],
    n_rows: int,
    settled: Sequence[Settled],
    limits: Limits,
    warnings: Sequence[str],
) -> Relation:
    """The loaded table as the dataset reads it. Raises InvalidDataset for no rows, or too many."""
    limits.check_rows(source, n_rows)
    infinite = tuple(
        f"column {name!r} has {column.n_infinite:,} infinite values"
        for name, column in zip(names, settled, strict=True)
        if column.n_infinite
    )
    return Relation(
        rows=TABLE,
        row_number="rowid",
        expressions=tuple(column.expression for column in settled),
        columns=tuple(
            Column(name=name, kind=column.kind, type=column.type)
            for name, column in zip(names, settled, strict=True)
        ),
        n_rows=n_rows,
        warnings=(*warnings, *infinite),
    )
