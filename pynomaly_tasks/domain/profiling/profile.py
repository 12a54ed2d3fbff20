"""Joins the parts of a profile into one JSON document."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from pynomaly_tasks.domain.profiling.summary import Summary, summarize
from pynomaly_tasks.domain.profiling.table import ProfiledColumn, Table
from pynomaly_tasks.domain.profiling.values import (
    EXACT_QUANTILE_ROWS,
    QUANTILES,
    SAMPLED_QUANTILE_ROWS,
    Values,
    count_duplicate_rows,
    count_values,
    quantiles,
)

MAX_CORRELATED_COLUMNS = 100
MAX_DUPLICATE_ROWS = 50_000_000
MAX_TEXT_LENGTH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileOptions:
    """How much to show."""

    top_n_values: int = 10
    n_bins: int = 20


def build_profile(
    table: Table, options: ProfileOptions, progress: Callable[[int, int, str], None]
) -> dict[str, Any]:
    """The profile as JSON: n_rows, n_columns, n_duplicate_rows, columns, correlations, warnings.

    The same table gives the same profile. progress is told (current, total, what is done) before each step.
    """
    n_steps = len(table.columns) + 4
    progress(0, n_steps, "counting")
    summaries = summarize(table)
    values = []
    for at, (column, summary) in enumerate(zip(table.columns, summaries, strict=True)):
        progress(1 + at, n_steps, f"values of {_cut(column.name, 60)}")
        values.append(count_values(table, column, summary, options.top_n_values))
    numbers = [at for at, column in enumerate(table.columns) if column.kind == "number"]
    progress(n_steps - 3, n_steps, "quantiles")
    levels = dict(zip(numbers, quantiles(table, [table.columns[at] for at in numbers]), strict=True))
    progress(n_steps - 2, n_steps, "histograms and correlations")
    histograms, correlations = _shape(table, numbers, summaries, options.n_bins)
    progress(n_steps - 1, n_steps, "duplicate rows")
    n_duplicates = count_duplicate_rows(table) if table.n_rows <= MAX_DUPLICATE_ROWS else None
    progress(n_steps, n_steps, "done")
    return {
        "n_rows": table.n_rows,
        "n_columns": len(table.columns),
        "n_duplicate_rows": n_duplicates,
        "columns": [
            _column(table.n_rows, column, summary, counted, levels.get(at), histograms.get(at))
            for at, (column, summary, counted) in enumerate(
                zip(table.columns, summaries, values, strict=True)
            )
        ],
        "correlations": correlations,
        "warnings": _warnings(table, summaries, values, len(numbers)),
    }


def _shape(
    table: Table, numbers: Sequence[int], summaries: Sequence[Summary], n_bins: int
) -> tuple[dict[int, dict[str, Any]], dict[str, Any]]:
    """Histograms by column position, and the correlations of the first number columns."""
    import numpy as np

    from pynomaly_tasks.domain.profiling.shape import Correlations, Histograms, number_rows

    if not numbers:
        return {}, {"columns": [], "matrix": []}
    of_numbers = [summaries[at] for at in numbers]
    histograms = Histograms(
        [None if s.minimum is None else (float(s.minimum), float(s.maximum)) for s in of_numbers], n_bins
    )
    correlated = of_numbers[:MAX_CORRELATED_COLUMNS]
    correlations = Correlations(
        np.array([s.mean or 0.0 for s in correlated]), np.array([_scale(s) for s in correlated])
    )
    names = [table.columns[at].name for at in numbers]
    for rows in number_rows(table.batches(names), len(names)):
        histograms.add(rows)
        correlations.add(rows[:, : len(correlated)])
    drawn = {
        at: {"edges": one.edges.tolist(), "counts": one.counts.tolist()}
        for at, one in zip(numbers, histograms.results(), strict=True)
        if one is not None
    }
    return drawn, {"columns": names[: len(correlated)], "matrix": correlations.results()}


def _scale(summary: Summary) -> float:
    """Something of the size of a column's spread, to divide by before squaring."""
    if summary.deviation is not None or summary.minimum is None:
        return summary.deviation or 1.0
    return max(abs(summary.minimum), abs(summary.maximum)) or 1.0


def _column(
    n_rows: int,
    column: ProfiledColumn,
    summary: Summary,
    values: Values,
    levels: Sequence[float | None] | None,
    histogram: dict[str, Any] | None,
) -> dict[str, Any]:
    n_missing = n_rows - summary.n_present
    return {
        "name": column.name,
        "type": column.type,
        "kind": column.kind,
        "n_missing": n_missing,
        "missing_share": n_missing / n_rows,
        "n_distinct": values.n_distinct,
        "is_constant": values.n_distinct == 1 and n_missing == 0,
        "min": _json(summary.minimum),
        "max": _json(summary.maximum),
        "mean": _json(summary.mean),
        "std": _json(summary.deviation),
        "quantiles": {str(q): _json(v) for q, v in zip(QUANTILES, levels, strict=True)} if levels else {},
        "histogram": histogram,
        "top_values": [{"value": _json(value), "count": n} for value, n in values.top],
    }


def _warnings(
    table: Table, summaries: Sequence[Summary], values: Sequence[Values], n_numbers: int
) -> list[str]:
    warnings = []
    estimated = [c.name for c, v in zip(table.columns, values, strict=True) if not v.is_exact]
    if estimated:
        warnings.append(
            f"n_distinct of {_listed(estimated)} is an estimate within about 1 %, "
            "and their most frequent values are not counted"
        )
    infinite = [c.name for c, s in zip(table.columns, summaries, strict=True) if s.n_infinite]
    if infinite:
        warnings.append(
            f"infinite values of {_listed(infinite)} are left out of mean, quantiles and histogram"
        )
    if table.n_rows > EXACT_QUANTILE_ROWS and n_numbers:
        warnings.append(f"quantiles are those of {SAMPLED_QUANTILE_ROWS:,} sampled rows")
    if n_numbers > MAX_CORRELATED_COLUMNS:
        warnings.append(f"only the first {MAX_CORRELATED_COLUMNS} number columns are correlated")
    if table.n_rows > MAX_DUPLICATE_ROWS:
        warnings.append(f"duplicate rows are not counted past {MAX_DUPLICATE_ROWS:,} rows")
    return warnings


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(_cut(name, 60)) for name in names[:10])
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    return _cut(value, MAX_TEXT_LENGTH) if isinstance(value, str) else value
