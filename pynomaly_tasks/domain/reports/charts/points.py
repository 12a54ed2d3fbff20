"""The plot of a result, ready to be drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pynomaly_tasks.domain.reports.charts.scale import seconds_since_1970
from pynomaly_tasks.domain.reports.json_reader import items, number, text
from pynomaly_tasks.domain.reports.words import show_timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """The plot of a result: one entry a plotted row, in order of ``at``."""

    is_time: bool
    at: Sequence[float]  #: seconds since 1970, row numbers, or positions
    labels: Sequence[str]
    y: Sequence[float | None]
    score: Sequence[float | None]
    anomaly: Sequence[bool]
    y_label: str
    has_values: bool  #: a series, with values to draw above the scores
    windows: Sequence[tuple[float, float]] = ()  #: known incidents, in units of ``at``


def read_points(plot: Mapping[str, Any], n_points: int) -> Points | None:
    """The plot of a result, sorted and thinned to ``n_points``; None when there is nothing to draw."""
    raw_x = items(plot, "x")
    n = len(raw_x)
    score = _numbers(items(plot, "score"), n)
    y = _numbers(items(plot, "y"), n)
    flags = [flag is True for flag in items(plot, "anomaly")]
    flags = (flags + [False] * n)[:n]
    if n == 0 or (all(s is None for s in score) and all(v is None for v in y)):
        return None
    at, is_time = positions(raw_x)
    labels = [show_timestamp(str(x)) if is_time else f"row {_row(x)}" for x in raw_x]
    order = _thinned(sorted(range(n), key=at.__getitem__), flags, n_points)
    return Points(
        is_time=is_time,
        at=[at[i] for i in order],
        labels=[labels[i] for i in order],
        y=[y[i] for i in order],
        score=[score[i] for i in order],
        anomaly=[flags[i] for i in order],
        y_label=text(plot, "y_label") or "value",
        has_values=plot.get("kind") == "series" and any(v is not None for v in y),
        windows=_windows(plot) if is_time else (),
    )


def _thinned(order: Sequence[int], flags: Sequence[bool], n_points: int) -> list[int]:
    """Every k-th point and every anomaly, so that about ``n_points`` are left."""
    if len(order) <= n_points:
        return list(order)
    hot = [i for i in order if flags[i]]
    hot_step = max(1, math.ceil(2 * len(hot) / n_points))
    kept = set(hot[::hot_step])
    cold = [i for i in order if not flags[i]]
    kept.update(cold[:: max(1, math.ceil(len(cold) / max(1, n_points - len(kept))))])
    return [i for i in order if i in kept]


def positions(raw: Sequence[Any]) -> tuple[list[float], bool]:
    """Places on an axis: instants if all are timestamps, numbers if all are, else their order."""
    if raw and all(isinstance(x, str) for x in raw):
        try:
            return [seconds_since_1970(x) for x in raw], True
        except (ValueError, OverflowError):
            pass
    numbers = [number(x) for x in raw]
    if any(x is None for x in numbers):
        return [float(i) for i in range(len(raw))], False
    return [x for x in numbers if x is not None], False


def _row(x: Any) -> str:
    value = number(x)
    return f"{value:,.0f}" if value is not None else str(x)


def _numbers(raw: Sequence[Any], n: int) -> list[float | None]:
    found = [number(value) for value in raw[:n]]
    return found + [None] * (n - len(found))


def _windows(plot: Mapping[str, Any]) -> list[tuple[float, float]]:
    found = []
    for window in items(plot, "windows"):
        try:
            start, end = (seconds_since_1970(str(one)) for one in window)
        except (TypeError, ValueError, OverflowError):
            continue
        found.append((start, end))
    return found


def ranks_by_place(anomalies: Sequence[Mapping[str, Any]], is_time: bool) -> dict[float, int]:
    """Where the listed anomalies are on the x axis."""
    found: dict[float, int] = {}
    for anomaly in anomalies:
        rank = number(anomaly, "rank")
        place = number(anomaly, "row")
        if is_time:
            try:
                place = seconds_since_1970(str(anomaly.get("timestamp")))
            except (ValueError, OverflowError):
                place = None
        if rank is not None and place is not None:
            found.setdefault(place, int(rank))
    return found
