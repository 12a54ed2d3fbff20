"""Order, gaps and spacing of a series' points.

A calendar of evenly spaced cells is laid under the points when their steps are whole multiples of one step
(within `TOLERANCE`, for `SHARE_ON_GRID` of the steps) and the gaps are not most of it. Cells without a value
are filled along a straight line between their neighbours. The few points that may repeat a timestamp share a cell,
which has their mean and gives them its score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pynomaly_tasks.domain.detection.calibration import FloatArray

TOLERANCE = 0.1
SHARE_ON_GRID = 0.95
#: A grid with more cells than this for each point is mostly gaps.
MAX_CELLS_PER_POINT = 4

Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordering:
    """Rows in time order."""

    rows: Rows  #: equal timestamps keep the order of the rows; rows without a timestamp are left out
    warnings: tuple[str, ...]


def order_by_time(timestamps: NDArray[np.datetime64] | None, n_rows: int) -> Ordering:
    """Without timestamps the order of the rows is the order in time."""
    rows = np.arange(n_rows)
    if timestamps is None:
        return Ordering(rows=rows, warnings=())
    warnings = []
    undated = np.isnat(timestamps)
    if undated.any():
        warnings.append(f"{undated.sum()} rows have no timestamp; they are treated as missing values")
        rows = rows[~undated]
    times = timestamps[rows]
    if np.any(times[1:] < times[:-1]):
        warnings.append("timestamps are not in order; the points were sorted by time before scoring")
        rows = rows[np.argsort(times, kind="stable")]
        times = timestamps[rows]
    n_repeated = int(np.count_nonzero(times[1:] == times[:-1]))
    if n_repeated:
        warnings.append(
            f"{n_repeated} timestamps repeat an earlier one; such points keep the order of the rows"
        )
    return Ordering(rows=rows, warnings=tuple(warnings))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Evenly spaced cells under the points."""

    values: FloatArray  #: (n_cells,), no NaN
    cell: Rows  #: (n_points,), the cell of each point given
    step_s: float | None  #: seconds from cell to cell; None when only the order is known
    warnings: tuple[str, ...]


def lay_grid(timestamps: NDArray[np.datetime64] | None, values: FloatArray) -> Grid:
    """A grid under points in time order.

    values: (n,), NaN where missing, at least one present. When the timestamps do not lie on a grid, each
    point is its own cell and a warning says so.
    """
    own_cell = np.arange(len(values))
    if timestamps is None:
        return _filled(values, own_cell, None, [])
    step_ns, cell = _cells(timestamps)
    if step_ns is None:
        return _filled(values, own_cell, None, [])
    if cell is None:
        warning = "timestamps are not evenly spaced; the points were taken as if they were"
        return _filled(values, own_cell, None, [warning])
    return _filled(values, cell, step_ns / 1e9, [])


def _cells(timestamps: NDArray[np.datetime64]) -> tuple[float | None, Rows | None]:
    gaps = np.diff(timestamps.astype("datetime64[ns]").astype(np.int64)).astype(np.float64)
    positive = gaps[gaps > 0]
    if not len(positive):
        return None, None
    step = float(np.median(positive))
    n_steps = np.rint(gaps / step)
    on_grid = (np.abs(gaps / step - n_steps) <= TOLERANCE) & (n_steps >= 1)
    cell = np.r_[0.0, np.cumsum(n_steps)]
    if on_grid.mean() < SHARE_ON_GRID or cell[-1] + 1 > MAX_CELLS_PER_POINT * len(timestamps):
        return step, None
    return step, cell.astype(np.intp)


def _filled(values: FloatArray, cell: Rows, step_s: float | None, warnings: list[str]) -> Grid:
    present = np.isfinite(values)
    first = int(cell[present][0])
    n_cells = int(cell[present][-1]) - first + 1
    inside = np.clip(cell - first, 0, n_cells - 1)
    total = np.bincount(inside[present], weights=values[present], minlength=n_cells)
    count = np.bincount(inside[present], minlength=n_cells)
    known = np.flatnonzero(count)
    cells = np.interp(np.arange(n_cells), known, total[known] / count[known])
    n_filled = n_cells - len(known)
    if n_filled:
        warnings.append(
            f"{n_filled} of {n_cells} evenly spaced points are missing; filled along straight lines"
        )
    return Grid(values=cells, cell=inside, step_s=step_s, warnings=tuple(warnings))
