"""How often each value occurs, how many there are, and where the quantiles lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pynomaly_tasks.domain.profiling.summary import Summary
from pynomaly_tasks.domain.profiling.table import ProfiledColumn, Table, quoted

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
# Up to here everything is counted exactly: it takes well under a second a column.
ALWAYS_EXACT_ROWS = 200_000
# Numbers with more different values than this are measurements; how often one occurs says nothing.
MAX_COUNTED_NUMBERS = 100_000
KEPT_HASHES = 100_000
# Exact quantiles hold a column in memory: 8 bytes a row. duckdb cannot spill them.
EXACT_QUANTILE_ROWS = 10_000_000
SAMPLED_QUANTILE_ROWS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """The values of one column, counted."""

    n_distinct: int
    is_exact: bool  #: whether n_distinct was counted; else it is within about 1 % of the truth
    top: Sequence[tuple[Any, int]]  #: most frequent first, ties by value; empty when not counted


def count_values(table: Table, column: ProfiledColumn, summary: Summary, n_top: int) -> Values:
    """The most frequent values. Nearly unique columns of long tables are not counted."""
    estimate = summary.n_distinct_estimate
    is_measured = column.kind in ("number", "datetime") and estimate > MAX_COUNTED_NUMBERS
    is_identifier = estimate > 0.9 * summary.n_present
    if table.n_rows > ALWAYS_EXACT_ROWS and (is_measured or is_identifier):
        n_distinct = min(_estimated_distinct(table, column, estimate), summary.n_present)
        return Values(n_distinct=n_distinct, is_exact=False, top=())
    name = quoted(column.name)
    rows = table.query(
        f"WITH counted AS (SELECT {name} AS value, count(*) AS n FROM data "
        f"WHERE {name} IS NOT NULL GROUP BY 1) "
        f"SELECT value, n, (SELECT count(*) FROM counted) FROM counted ORDER BY n DESC, value LIMIT {n_top}"
    )
    return Values(
        n_distinct=rows[0][2] if rows else 0, is_exact=True, top=[(value, n) for value, n, _ in rows]
    )


def _estimated_distinct(table: Table, column: ProfiledColumn, rough: int) -> int:
    """Different values among those whose hash falls into a share of all hashes, over that share.

    The share keeps about KEPT_HASHES values: a standard error of 0.3 %, where duckdb's HyperLogLog
    is off by up to 5 %. The answer depends on the values alone, not on their order.
    """
    n_shares = max(1, rough // KEPT_HASHES)
    name = quoted(column.name)
    ((n_kept,),) = table.query(
        f"SELECT count(*) FROM (SELECT DISTINCT hash({name}) FROM data "
        f"WHERE {name} IS NOT NULL AND hash({name}) < {2**64 // n_shares}::UHUGEINT)"
    )
    return int(n_kept * n_shares)


def quantiles(table: Table, columns: Sequence[ProfiledColumn]) -> list[list[float | None]]:
    """The QUANTILES of the finite values of number columns, interpolated between neighbours.

    Exact up to EXACT_QUANTILE_ROWS; past it from a seeded sample of SAMPLED_QUANTILE_ROWS rows, which
    puts each within about 0.1 % of its rank.
    """
    if table.n_rows <= EXACT_QUANTILE_ROWS:
        return [_exact(table, column) for column in columns]
    return [_sampled(table, column) for column in columns]


def _exact(table: Table, column: ProfiledColumn) -> list[float | None]:
    name = quoted(column.name)
    levels = ", ".join(map(str, QUANTILES))
    ((values,),) = table.query(
        f"SELECT quantile_cont({name}::DOUBLE, [{levels}]) FROM data WHERE isfinite({name}::DOUBLE)"
    )
    return values if values is not None else [None] * len(QUANTILES)


def _sampled(table: Table, column: ProfiledColumn) -> list[float | None]:
    import numpy as np

    sampled = table.sample(SAMPLED_QUANTILE_ROWS, [column.name]).column(0)
    values = sampled.drop_null().to_numpy().astype(np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return [None] * len(QUANTILES)
    return [float(value) for value in np.quantile(values, QUANTILES)]


def count_duplicate_rows(table: Table) -> int:
    """Rows that repeat an earlier one in every column. Rows are told apart by a 64-bit hash:
    among 10 million different rows, one pair is mistaken for equal with a chance of 3 in a million.
    """
    names = ", ".join(quoted(column.name) for column in table.columns)
    ((n_different,),) = table.query(
        f"SELECT count(*) FROM (SELECT hash({names}) AS fingerprint FROM data GROUP BY fingerprint)"
    )
    return int(table.n_rows - n_different)
