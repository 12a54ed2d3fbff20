"""SVG path data, written short: a report must stay under 200 KB."""

from __future__ import annotations

from collections.abc import Iterable


def line(points: Iterable[tuple[float, float] | None]) -> str:
    """A line through the points; a None is a gap. A lone point between gaps is drawn as a dot.

    >>> line([(0, 1), (2, 3.5), None, (4, 5)])
    'M0 1 2 3.5M4 5h0'
    """
    parts: list[str] = []
    run: list[tuple[float, float]] = []
    for point in [*points, None]:
        if point is not None:
            run.append(point)
        elif run:
            joined = " ".join(f"{x:g} {y:g}" for x, y in run)
            parts.append(f"M{joined}" if len(run) > 1 else f"M{joined}h0")
            run = []
    return "".join(parts)


def dots(points: Iterable[tuple[float, float]]) -> str:
    """Lines of no length: with round caps, a dot for each point in one path.

    >>> dots([(0, 1), (2, 3.5)])
    'M0 1h0M2 3.5h0'
    """
    return "".join(f"M{x:g} {y:g}h0" for x, y in points)
