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
from scipy import ndimage

from pynomaly_tasks.domain.detection.calibration import (
    MAX_DEPARTURE,
    FloatArray,
    causal_surprise,
    hold_off,
    lagged,
    rolling_quantile,
)
from pynomaly_tasks.domain.detection.series_params import RollingRobustZParams

#: The first points score 0: their history is too short to say anything.
WARM_UP_POINTS = 20
#: Steps averaged in the spread view.
SPREAD_POINTS = 21
#: (share of the absolute residuals, the normal quantile that it estimates), tried until one is not zero.
SPREADS = ((0.5, 0.6745), (0.9, 1.6449), (0.99, 2.5758))


def score_rolling_robust_z(values: FloatArray, params: RollingRobustZParams) -> tuple[FloatArray, FloatArray]:
    """Scores, and the level that was expected.

    values: (n,), no NaN, in time order. Both results: (n,), finite; neither depends on later points.
    """
    residual, expected = _level_residual(values, params)
    step = values - lagged(values, float(values[0]))
    departures = []
    if "level" in params.watch:
        departures.append(sigmas(_one_sided(residual, params.direction), residual, params.spread_points))
    if "change" in params.watch:
        departures.append(sigmas(_one_sided(step, params.direction), step, params.spread_points))
    if "spread" in params.watch and params.direction == "both":
        change = _spread_change(step, params.spread_points)
        departures.append(sigmas(np.abs(change), change, params.spread_points))
    surprises = [causal_surprise(z, params.calibration_points) for z in departures]
    score = np.maximum(np.max(surprises, axis=0) - math.log10(len(surprises)), 0.0)
    score[:WARM_UP_POINTS] = 0.0
    return hold_off(score, params.hold_off_points), expected


def sigmas(size: FloatArray, residual: FloatArray, n_points: int) -> FloatArray:
    """``size`` over the spread of the residuals before it; at most MAX_DEPARTURE.

    The spread is their rolling median absolute value, made an estimate of sigma. Where more than half of them
    are zero it is taken from a higher quantile; where all are, any departure is MAX_DEPARTURE.
    """
    magnitude = np.abs(residual)
    spread = np.zeros_like(magnitude)
    for share, normal_quantile in SPREADS:
        if spread.all():
            break
        wider = lagged(rolling_quantile(magnitude, share, n_points), 0.0) / normal_quantile
        spread = np.where(spread > 0, spread, wider)
    unlimited = np.where(size > 0, MAX_DEPARTURE, 0.0)
    with np.errstate(over="ignore"):  # a spread near the smallest float: the ratio is cut below
        ratio = np.divide(size, spread, out=unlimited, where=spread > 0)
    return np.minimum(ratio, MAX_DEPARTURE)


def _level_residual(values: FloatArray, params: RollingRobustZParams) -> tuple[FloatArray, FloatArray]:
    first = float(values[0])
    expected = lagged(rolling_quantile(values, 0.5, params.window_points | 1), first)
    if params.level_points:
        level = lagged(rolling_quantile(values, 0.5, params.level_points | 1), first)
        expected = np.where(np.abs(values - level) < np.abs(values - expected), level, expected)
    return values - expected, expected


def _spread_change(step: FloatArray, n_points: int) -> FloatArray:
    """Log ratio of the recent mean step to its usual size; a thousandth of the largest so far is added to both."""
    recent = ndimage.uniform_filter1d(
        np.abs(step), SPREAD_POINTS, mode="nearest", origin=(SPREAD_POINTS - 1) // 2
    )
    recent[: SPREAD_POINTS - 1] = recent[SPREAD_POINTS - 1] if len(recent) >= SPREAD_POINTS else 0.0
    usual = lagged(rolling_quantile(recent, 0.5, n_points), float(recent[0]))
    least = 1e-3 * np.maximum.accumulate(recent)
    return np.log(np.where(least > 0, recent + least, 1.0) / np.where(least > 0, usual + least, 1.0))


def _one_sided(residual: FloatArray, direction: str) -> FloatArray:
    if direction == "high":
        return np.maximum(residual, 0.0)
    if direction == "low":
        return np.maximum(-residual, 0.0)
    return np.abs(residual)
