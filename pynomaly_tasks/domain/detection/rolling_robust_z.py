"""Departures from the recent past in robust sigmas, calibrated; a point is judged by the points before it.

Three views of the same series, each with its own history, so that their scores can be compared:

level    the value against the rolling median. A second, shorter median takes over when it is nearer: after a
         level shift the new level is normal within half of ``level_points``, not of ``window_points``.
change   the step from the value before.
spread   the mean step of the last `SPREAD_POINTS` against its rolling median: sudden noise, and flat lines.

The score is the largest of the views' calibrated scores, less log10 of their number (Bonferroni), so that the
chance of reaching a score in any view is at most what the score says.
"""

from __future__ import annotations

import math

import numpy as np

from pynomaly_tasks.domain.detection.calibration import (
    FloatArray,
    causal_surprise,
    lagged,
    one_sided,
    rolling_quantile,
    sigmas,
)
from pynomaly_tasks.domain.detection.series_params import RollingRobustZParams

#: The first points of a view score 0: their history is too short to say anything.
WARM_UP_POINTS = 20
#: Steps averaged in the spread view.
SPREAD_POINTS = 31


def score_rolling_robust_z(values: FloatArray, params: RollingRobustZParams) -> tuple[FloatArray, FloatArray]:
    """Scores, and the level that was expected.

    values: (n,), no NaN, in time order. Both results: (n,), finite; neither depends on later points.
    """
    level, expected = _level_residual(values, params)
    step = np.diff(values)
    watched = []
    if "level" in params.watch:
        watched.append((one_sided(level, params.direction), level))
    if "change" in params.watch:
        watched.append((one_sided(step, params.direction), step))
    if "spread" in params.watch and params.direction == "both":
        spread = _spread_residual(step, params.spread_points)
        watched.append((np.abs(spread), spread))
    surprises = [_calibrated(size, residual, len(values), params) for size, residual in watched]
    score = np.maximum(np.max(surprises, axis=0) - math.log10(len(surprises)), 0.0)
    return score, expected


def _calibrated(
    size: FloatArray, residual: FloatArray, n_values: int, params: RollingRobustZParams
) -> FloatArray:
    """(n_values,): calibrated scores; a view that begins later than the series scores 0 until then."""
    departure = sigmas(size, residual, params.spread_points)
    score = np.zeros(n_values)
    score[n_values - len(departure) :] = causal_surprise(departure, params.calibration_points, WARM_UP_POINTS)
    return score


def _level_residual(values: FloatArray, params: RollingRobustZParams) -> tuple[FloatArray, FloatArray]:
    first = float(values[0])
    usual = lagged(rolling_quantile(values, 0.5, params.window_points | 1), first)
    nearest = usual
    if params.level_points:
        level = lagged(rolling_quantile(values, 0.5, params.level_points | 1), first)
        nearest = np.where(np.abs(values - level) < np.abs(values - usual), level, usual)
    # What people are shown as expected is the usual level: after an hour of nearly no taxis the
    # nearest one is nearly nothing, and "high" would be no explanation of the next few rides.
    return values - nearest, usual


def _spread_residual(step: FloatArray, n_points: int) -> FloatArray:
    """Log ratio of the mean size of the last steps to its usual value, from the first full window on.

    A thousandth of the largest mean so far is added to both, so that a flat line stands out by a finite amount.
    """
    size = np.abs(step)
    n_recent = len(size) - SPREAD_POINTS + 1
    # Added up anew for each point: a running sum would keep the rounding of a huge step for good.
    recent = sum((size[i : i + n_recent] for i in range(SPREAD_POINTS)), np.zeros(n_recent)) / SPREAD_POINTS
    usual = lagged(rolling_quantile(recent, 0.5, n_points), float(recent[0]))
    least = 1e-3 * np.maximum.accumulate(recent)
    ratio = np.divide(recent + least, usual + least, out=np.ones_like(recent), where=least > 0)
    return np.asarray(np.log(ratio))
