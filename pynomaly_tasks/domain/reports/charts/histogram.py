"""A column's distribution in a table cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pynomaly_tasks.domain.reports.json_reader import items, number
from pynomaly_tasks.domain.reports.words import show_number

WIDTH, HEIGHT = 140.0, 34.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Bars as one path."""

    bars: str
    description: str


def draw_histogram(histogram: Mapping[str, Any]) -> Histogram | None:
    """None when there is nothing to draw. A bin that is not empty is at least one unit high."""
    edges = [number(edge) for edge in items(histogram, "edges")]
    counts = [number(count) or 0.0 for count in items(histogram, "counts")]
    known = [edge for edge in edges if edge is not None]
    if len(known) != len(edges) or len(edges) != len(counts) + 1 or not counts or max(counts) <= 0:
        return None
    low, high, tallest = known[0], known[-1], max(counts)
    span = high - low
    bars = []
    for index, count in enumerate(counts):
        if count <= 0:
            continue
        x0 = WIDTH * ((known[index] - low) / span if span else index / len(counts))
        x1 = WIDTH * ((known[index + 1] - low) / span if span else (index + 1) / len(counts))
        height = max(1.0, HEIGHT * count / tallest)
        bars.append(f"M{x0:.1f} {HEIGHT:g}v{-height:.1f}H{max(x1 - 0.8, x0 + 0.4):.1f}V{HEIGHT:g}z")
    peak = counts.index(tallest)
    return Histogram(
        bars="".join(bars),
        description=(
            f"Histogram from {show_number(low)} to {show_number(high)}; most values, {tallest:,.0f}, lie "
            f"between {show_number(known[peak])} and {show_number(known[peak + 1])}"
        ),
    )
