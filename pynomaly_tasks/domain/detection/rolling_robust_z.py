"""Departure from a rolling median, in robust sigmas, calibrated; each point is judged by the past alone."""

from __future__ import annotations

import numpy as np

from pynomaly_tasks.domain.detection.calibration import (
    MAX_DEPARTURE,
    FloatArray,
    causal_surprise,
    lagged,
    rolling_quantile,
)
from pynomaly_tasks.domain.detection.series_params import RollingRobustZParams

SIGMA_PER_MAD = 1.4826


def score_rolling_robust_z(values: FloatArray, params: RollingRobustZParams) -> tuple[FloatArray, FloatArray]:
    """Scores and expected values. values: (n,), no NaN, in time order."""
    window = params.window_points | 1
    residual, expected = _residual(values, window, params.level_points)
    spread = _spread(residual, window)
    size = _one_sided(residual, params.direction)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(size > 0, np.minimum(size / spread, MAX_DEPARTURE), 0.0)
    score = causal_surprise(z, params.calibration_points)
    return score, expected


def _residual(values: FloatArray, window: int, level_points: int) -> tuple[FloatArray, FloatArray]:
    expected = lagged(rolling_quantile(values, 0.5, window), values[0])
    if level_points:
        level = lagged(rolling_quantile(values, 0.5, level_points | 1), values[0])
        expected = np.where(np.abs(values - level) < np.abs(values - expected), level, expected)
    return values - expected, expected


def _spread(residual: FloatArray, window: int) -> FloatArray:
    size = np.abs(residual)
    mad = lagged(rolling_quantile(size, 0.5, window), 0.0)
    return SIGMA_PER_MAD * mad


def _one_sided(residual: FloatArray, direction: str) -> FloatArray:
    if direction == "high":
        return np.maximum(residual, 0.0)
    if direction == "low":
        return np.maximum(-residual, 0.0)
    return np.abs(residual)
