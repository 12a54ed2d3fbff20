"""The top anomalies of a series, each among its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pynomaly_tasks.domain.reports.charts.paths import dots, line
from pynomaly_tasks.domain.reports.charts.points import Points
from pynomaly_tasks.domain.reports.charts.scale import padded, spread
from pynomaly_tasks.domain.reports.words import show_number

WIDTH, HEIGHT = 300.0, 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseUp:
    """One anomaly among its neighbours."""

    rank: int
    label: str
    line: str
    anomalies: str
    x: float
    y: float
    low: str
    high: str
    start: str
    end: str


def draw_close_ups(points: Points, ranks: Mapping[float, int], n: int, n_around: int = 48) -> list[CloseUp]:
    """The top anomalies, each with ``n_around`` plotted points on both sides; near ones share a drawing."""
    if not points.has_values or len(points.at) < 4 * n_around:
        return []
    ranked = sorted((ranks[at], i) for i, at in enumerate(points.at) if points.anomaly[i] and at in ranks)
    chosen: list[tuple[int, int]] = []
    for rank, index in ranked:
        if len(chosen) < n and all(abs(index - other) > n_around for _, other in chosen):
            chosen.append((rank, index))
    drawn = (_close_up(points, rank, index, n_around) for rank, index in chosen)
    return [close_up for close_up in drawn if close_up is not None]


def _close_up(points: Points, rank: int, index: int, n_around: int) -> CloseUp | None:
    first, last = max(0, index - n_around), min(len(points.at), index + n_around + 1)
    values = points.y[first:last]
    known = [value for value in values if value is not None]
    here = points.y[index]
    if here is None or len(known) < 2:
        return None
    x_scale = spread(points.at[first:last], 4, WIDTH - 4)
    y_scale = padded(known, HEIGHT - 6, 6)
    placed = [
        None if value is None else (x_scale(at), y_scale(value))
        for at, value in zip(points.at[first:last], values, strict=True)
    ]
    hot = [p for p, flag in zip(placed, points.anomaly[first:last], strict=True) if flag and p]
    return CloseUp(
        rank=rank,
        label=f"{points.labels[index]}: {show_number(here)}",
        line=line(placed),
        anomalies=dots(hot),
        x=x_scale(points.at[index]),
        y=y_scale(here),
        low=show_number(min(known)),
        high=show_number(max(known)),
        start=points.labels[first],
        end=points.labels[last - 1],
    )
