"""Counts, extremes and moments of every column, in one pass over the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pynomaly_tasks.domain.profiling.table import ProfiledColumn, Table, quoted

# A query with some thousand aggregates takes seconds to plan; wide tables are asked in parts.
COLUMNS_PER_QUERY = 50
# duckdb fails the whole query when a sum of squares leaves the range of float64.
MAX_SQUARED = 1e140


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One column. Of a number column, minimum to deviation are those of the finite values."""

    n_present: int
    n_distinct_estimate: int  #: HyperLogLog; depends on the values alone, not on their order
    minimum: Any
    maximum: Any
    mean: float | None  #: of a boolean the share of true; None for text and datetime
    deviation: float | None  #: n - 1 in the denominator; None below two values, or past 1e140
    n_infinite: int


def summarize(table: Table) -> list[Summary]:
    """A summary for each column of the table."""
    return [
        summary
        for start in range(0, len(table.columns), COLUMNS_PER_QUERY)
        for summary in _summarize(table, table.columns[start : start + COLUMNS_PER_QUERY])
    ]


def _summarize(table: Table, columns: Sequence[ProfiledColumn]) -> list[Summary]:
    aggregates = [_aggregates(column) for column in columns]
    (row,) = table.query(f"SELECT {', '.join(one for some in aggregates for one in some)} FROM data")
    width = len(aggregates[0])
    return [_read(row[at : at + width]) for at in range(0, len(row), width)]


def _read(row: Sequence[Any]) -> Summary:
    n_present, estimate, minimum, maximum, mean, deviation, n_infinite = row
    if mean is not None and not math.isfinite(mean):
        mean = None
    if isinstance(minimum, float) and max(-minimum, maximum) >= MAX_SQUARED:
        deviation = None
    return Summary(
        n_present=n_present,
        n_distinct_estimate=estimate,
        minimum=minimum,
        maximum=maximum,
        mean=mean,
        deviation=deviation,
        n_infinite=n_infinite,
    )


def _aggregates(column: ProfiledColumn) -> tuple[str, ...]:
    name = quoted(column.name)
    counts = (f"count({name})", f"approx_count_distinct({name})")
    extremes = (f"min({name})", f"max({name})")
    if column.kind == "number":
        if column.type != "DOUBLE" and column.type != "FLOAT":
            return (*counts, *extremes, f"avg({name})", f"stddev_samp({name})", "0")
        finite = f"FILTER (isfinite({name}))"
        squarable = f"FILTER (abs({name}) < {MAX_SQUARED})"
        return (
            *counts,
            f"min({name}) {finite}",
            f"max({name}) {finite}",
            f"avg({name}) {finite}",
            f"stddev_samp({name}) {squarable}",
            f"count(*) FILTER (isinf({name}))",
        )
    if column.kind == "boolean":
        return (*counts, *extremes, f"avg({name}::INTEGER)", f"stddev_samp({name}::INTEGER)", "0")
    return (*counts, *extremes, "NULL", "NULL", "0")
