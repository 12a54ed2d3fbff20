"""What the report says about a profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pynomaly_tasks.domain.reports.charts.heat_map import HeatMap, draw_heat_map
from pynomaly_tasks.domain.reports.charts.histogram import Histogram, draw_histogram
from pynomaly_tasks.domain.reports.facts import Fact, facts_about_dataset, facts_about_run
from pynomaly_tasks.domain.reports.json_reader import number, obj, objs, text, texts, whole
from pynomaly_tasks.domain.reports.limits import Limits
from pynomaly_tasks.domain.reports.words import NOTHING, show, show_share, show_timestamp

N_TOP_VALUES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TopValue:
    """One frequent value, with its share of all rows."""

    value: str
    count: str
    share: str
    width: float  #: of its bar, 0 to 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledColumn:
    """One line of the table of columns."""

    name: str
    type: str
    missing: str
    missing_width: float  #: 0 to 100
    distinct: str
    is_constant: bool
    spread: Sequence[tuple[str, str]]  #: minimum, mean and so on, where they exist
    histogram: Histogram | None
    top_values: Sequence[TopValue]
    quantiles: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSection:
    """One profiling job."""

    kind: str
    anchor: str
    job_id: str
    heading: str
    lead: str
    tiles: Sequence[Fact]
    facts: Sequence[Fact]
    columns: Sequence[ProfiledColumn]
    n_columns_more: int
    heat_map: HeatMap | None
    warnings: Sequence[str]
    n_anomalies: None = None


def read_profile(job_id: str, detail: Mapping[str, Any], anchor: str, limits: Limits) -> ProfileSection:
    """The section of one profiling job, within the limits."""
    columns = objs(detail, "columns")
    n_rows = whole(detail, "n_rows") or 0
    name = text(obj(detail, "dataset"), "name") or "a dataset"
    n_missing = sum(whole(column, "n_missing") or 0 for column in columns)
    n_cells = n_rows * len(columns)
    duplicates = whole(detail, "n_duplicate_rows")
    with_gaps = sum(1 for column in columns if whole(column, "n_missing"))
    constant = sum(1 for column in columns if column.get("is_constant") is True)
    return ProfileSection(
        kind="profile",
        anchor=anchor,
        job_id=job_id,
        heading=name,
        lead=_lead(n_rows, len(columns), with_gaps, constant),
        tiles=[
            Fact("rows", f"{n_rows:,}"),
            Fact("columns", f"{len(columns):,}"),
            Fact("cells missing", show_share(n_missing / n_cells if n_cells else 0.0)),
            Fact("duplicate rows", "not counted" if duplicates is None else f"{duplicates:,}"),
        ],
        facts=[*facts_about_dataset(detail), *facts_about_run(job_id, detail)],
        columns=[_column(column, n_rows) for column in columns[: limits.n_columns]],
        n_columns_more=max(0, len(columns) - limits.n_columns),
        heat_map=draw_heat_map(obj(detail, "correlations"), limits.n_correlated),
        warnings=texts(detail, "warnings")[: limits.n_names],
    )


def _lead(n_rows: int, n_columns: int, with_gaps: int, constant: int) -> str:
    lead = f"{n_rows:,} rows in {n_columns:,} columns"
    if with_gaps:
        lead += f"; {with_gaps:,} with missing values"
    if constant:
        lead += f"; {constant:,} with one value only"
    return lead + "."


def _column(column: Mapping[str, Any], n_rows: int) -> ProfiledColumn:
    missing_share = number(column, "missing_share") or 0.0
    is_number = text(column, "kind") == "number"
    keys = ("min", "mean", "max", "std") if is_number else ("min", "max")
    is_time = text(column, "kind") == "datetime"
    spread = [
        (key, show_timestamp(text(column, key)) if is_time else show(column.get(key), 28))
        for key in keys
        if column.get(key) is not None
    ]
    histogram = draw_histogram(obj(column, "histogram"))
    return ProfiledColumn(
        name=text(column, "name") or "",
        type=text(column, "type") or text(column, "kind") or "",
        missing=show_share(missing_share) if whole(column, "n_missing") else NOTHING,
        missing_width=round(100 * max(0.0, min(1.0, missing_share)), 1),
        distinct=show(column.get("n_distinct")),
        is_constant=column.get("is_constant") is True,
        spread=spread,
        histogram=histogram,
        top_values=_top_values(column, n_rows) if histogram is None else [],
        quantiles=", ".join(
            f"{100 * float(key):g} %: {show(value)}"
            for key, value in obj(column, "quantiles").items()
            if _is_share(key)
        ),
    )


def _top_values(column: Mapping[str, Any], n_rows: int) -> list[TopValue]:
    is_time = text(column, "kind") == "datetime"
    top = objs(column, "top_values")[:N_TOP_VALUES]
    # The most frequent of many values that hardly repeat says nothing.
    if not top or (number(top[0], "count") or 0.0) <= 1:
        return []
    return [_top_value(one, n_rows, is_time) for one in top]


def _top_value(one: Mapping[str, Any], n_rows: int, is_time: bool) -> TopValue:
    count = number(one, "count") or 0.0
    share = max(0.0, min(1.0, count / n_rows)) if n_rows else 0.0
    return TopValue(
        value=show_timestamp(text(one, "value")) if is_time else show(one.get("value"), 32),
        count=show(one.get("count")),
        share=show_share(share),
        width=round(100 * share, 1),
    )


def _is_share(key: str) -> bool:
    try:
        return 0 <= float(key) <= 1
    except ValueError:
        return False
