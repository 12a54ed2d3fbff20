"""Values and scores over time or rows, with the anomalies marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pynomaly_tasks.domain.reports.charts.paths import dots, line
from pynomaly_tasks.domain.reports.charts.points import Points
from pynomaly_tasks.domain.reports.charts.scale import Scale, Tick, number_ticks, padded, spread, time_ticks
from pynomaly_tasks.domain.reports.words import show_number

WIDTH, LEFT, RIGHT = 960.0, 64.0, 12.0
N_BADGES = 9  #: ranks written on their points; one digit each


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """An anomaly that has something to say."""

    x: float
    y: float
    rank: int | None  #: written on the point; None for a hint only
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes."""

    top: float
    bottom: float
    label: str
    y_ticks: Sequence[Tick]
    line: str  #: path data; empty where ordinary points are dots
    points: str  #: path data of ordinary points as dots
    anomalies: str  #: path data of anomalies as dots
    marks: Sequence[Mark]
    threshold_at: float | None
    threshold_label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A stretch of the x axis."""

    x: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Panels above one another that share their x axis."""

    width: float
    height: float
    left: float
    right: float
    panels: Sequence[Panel]
    x_ticks: Sequence[Tick]
    bands: Sequence[Band]
    description: str


def draw_timeline(points: Points, ranks: Mapping[float, int], threshold: float | None) -> Timeline:
    """Values above scores for a series; one panel of scores as dots for a table.

    ranks: place on the x axis to rank, for the anomalies that the report lists.
    """
    x_scale = spread(points.at, LEFT, WIDTH - RIGHT)
    heights = ((16.0, 256.0), (292.0, 392.0)) if points.has_values else ((16.0, 316.0),)
    panels = []
    if points.has_values:
        panels.append(_panel(points, points.y, x_scale, heights[0], points.y_label, ranks, None, True))
    panels.append(
        _panel(points, points.score, x_scale, heights[-1], "score", ranks, threshold, points.has_values)
    )
    ticks = time_ticks(x_scale) if points.is_time else number_ticks(x_scale, 8)
    x_name = "time" if points.is_time else "row"
    return Timeline(
        width=WIDTH,
        height=heights[-1][1] + 32,
        left=LEFT,
        right=WIDTH - RIGHT,
        panels=panels,
        x_ticks=[tick for tick in ticks if LEFT <= tick.at <= WIDTH - RIGHT],
        bands=[_band(x_scale, start, end) for start, end in points.windows],
        description=(
            f"{'Values and scores' if points.has_values else 'Scores'} by {x_name}: "
            f"{len(points.at):,} points from {points.labels[0]} to {points.labels[-1]}, "
            f"{sum(points.anomaly):,} of them anomalies"
        ),
    )


def _band(scale: Scale, start: float, end: float) -> Band:
    x0 = max(min(scale(start), scale.end), scale.start)
    x1 = max(min(scale(end), scale.end), scale.start)
    return Band(x=x0, width=max(round(x1 - x0, 1), 1.0))


def _panel(
    points: Points,
    values: Sequence[float | None],
    x_scale: Scale,
    height: tuple[float, float],
    label: str,
    ranks: Mapping[float, int],
    threshold: float | None,
    as_line: bool,
) -> Panel:
    top, bottom = height
    known = [value for value in values if value is not None]
    # A threshold far above every score would flatten the chart; then it is told, not drawn.
    reach = [*known, threshold] if threshold is not None and _is_near(threshold, known) else known
    y_scale = padded(reach or [0.0, 1.0], bottom, top)
    placed = [
        None if value is None else (x_scale(at), y_scale(value))
        for at, value in zip(points.at, values, strict=True)
    ]
    hot = [p for p, flag in zip(placed, points.anomaly, strict=True) if flag and p is not None]
    cold = [p for p, flag in zip(placed, points.anomaly, strict=True) if not flag and p is not None]
    return Panel(
        top=top,
        bottom=bottom,
        label=label,
        y_ticks=number_ticks(y_scale, 5 if bottom - top > 150 else 3),
        line=line(placed) if as_line else "",
        points="" if as_line else dots(cold),
        anomalies=dots(hot),
        marks=_marks(points, values, placed, ranks),
        threshold_at=y_scale(threshold) if threshold is not None and threshold in reach else None,
        threshold_label=f"threshold {show_number(threshold)}" if threshold is not None else "",
    )


def _is_near(threshold: float, known: Sequence[float]) -> bool:
    return bool(known) and threshold <= max(known) + (max(known) - min(known))


def _marks(
    points: Points,
    values: Sequence[float | None],
    placed: Sequence[tuple[float, float] | None],
    ranks: Mapping[float, int],
) -> list[Mark]:
    found: list[tuple[int, Mark]] = []
    for index, place in enumerate(placed):
        rank = ranks.get(points.at[index]) if points.anomaly[index] else None
        if place is None or rank is None:
            continue
        hint = (
            f"#{rank}, {points.labels[index]}: {show_number(values[index])}, "
            f"score {show_number(points.score[index])}"
        )
        found.append((rank, Mark(x=place[0], y=place[1], rank=rank, hint=hint)))
    found.sort(key=lambda one: one[0])
    return _with_room([mark for _, mark in found])


def _with_room(marks: Sequence[Mark]) -> list[Mark]:
    """Only as many ranks are written as can be read: the higher one wins its place."""
    kept: list[Mark] = []
    written: list[Mark] = []
    for mark in marks:
        has_room = (mark.rank or 0) <= N_BADGES and all(
            abs(mark.x - other.x) > 18 or abs(mark.y - other.y) > 18 for other in written
        )
        if has_room:
            written.append(mark)
        kept.append(mark if has_room else Mark(x=mark.x, y=mark.y, rank=None, hint=mark.hint))
    return kept
