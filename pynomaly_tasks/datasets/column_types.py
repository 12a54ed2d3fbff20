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
FEW_COLUMNS = 50


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
    names = [f"c{at}" for at in range(n_columns)]
    found: dict[str, Sequence[object]]
    if n_columns <= FEW_COLUMNS:
        facts = ", ".join(_type_facts(name) for name in names)
        (row,) = engine.execute(f"SELECT {facts} FROM (SELECT * {rows})", checkpoint)
        found = {name: row[5 * at : 5 * at + 5] for at, name in enumerate(names)}
    else:
        found = _by_column(engine, f"(SELECT * {rows})", names, _type_facts("value"), checkpoint)
    return [_typed(*found[name]) if name in found else StoredType.NUMBER for name in names]


def _by_column(
    engine: Engine, table: str, names: Sequence[str], facts: str, checkpoint: Callable[[], None] | None
) -> dict[str, Sequence[object]]:
    """Aggregates of each column that has a value, by one query with few aggregates.

    Thousands of aggregates in one query take minutes to plan, and more memory than the rows.
    """
    listed = ", ".join(names)
    answer = engine.execute(
        f"SELECT name, {facts} FROM (UNPIVOT (SELECT {listed} FROM {table}) ON {listed} "
        "INTO NAME name VALUE value) GROUP BY name",
        checkpoint,
    )
    return {str(row[0]): row[1:] for row in answer}


def _type_facts(column: str) -> str:
    return (
        f"count({column}), count(try_cast({column} AS DOUBLE)), count(try_cast({column} AS TIMESTAMPTZ)), "
        f"bool_and(strlen({column}) <= 5 AND lower({column}) IN ('true', 'false')), "
        f"bool_or(strlen({column}) >= 16 AND regexp_full_match({column}, '\\s*[+-]?0*[1-9][0-9]{{15,}}\\s*') "
        f"AND abs(try_cast({column} AS DOUBLE)) >= {EXACT_WHOLE_NUMBERS})"
    )


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
    found: dict[str, Sequence[object]] = {}
    for type_ in StoredType:
        names = [f"c{at}" for at, one in enumerate(types) if one is type_]
        if names and len(types) > FEW_COLUMNS:
            found |= _by_column(engine, TABLE, names, _facts("value", type_), checkpoint)
        elif names:
            facts = ", ".join(_facts(name, type_) for name in names)
            (row,) = engine.execute(f"SELECT {facts} FROM {TABLE}", checkpoint)
            found |= {name: row[3 * at : 3 * at + 3] for at, name in enumerate(names)}
    ((n_rows,),) = engine.execute(f"SELECT count(*) FROM {TABLE}")
    settled = [
        _settled(engine.source, at, type_, found.get(f"c{at}", (None, None, None)))
        for at, type_ in enumerate(types)
    ]
    return int(n_rows), settled


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
