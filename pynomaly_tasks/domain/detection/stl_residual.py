"""Departure from season and trend (STL, Cleveland et al. 1990), calibrated over the whole series."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage
from statsmodels.tsa.seasonal import STL

from pynomaly_tasks.domain.detection.calibration import FloatArray, batch_surprise, one_sided, sigmas
from pynomaly_tasks.domain.detection.series_params import StlResidualParams

#: Points in the centred median that stands for the trend when nothing repeats.
TREND_POINTS = 101
#: A residual this small against the values' usual size is no departure but what the fit's rounding left.
LEAST_RESIDUAL = 1e-5
#: Season-trend rounds in one fit.
ROUNDS = 2
#: Fits after the first, and where each cuts the residuals of the one before.
REFITS = 2
CUT_SIGMAS = 3.0
SIGMA_PER_MAD = 1.4826


def score_stl_residual(
    values: FloatArray, period: int | None, params: StlResidualParams
) -> tuple[FloatArray, FloatArray]:
    """Scores, and season plus trend as what was expected.

    Without a period the trend is a centred rolling median and there is no season.

    values: (n,), evenly spaced, no NaN; at least two periods. Both results: (n,), finite.
    """
    expected = _median_trend(values) if period is None else _season_and_trend(values, period, params)
    residual = values - expected
    residual[np.abs(residual) <= LEAST_RESIDUAL * _usual_size(values)] = 0.0
    departure = sigmas(one_sided(residual, params.direction), residual, None)
    return batch_surprise(departure), expected


def _usual_size(values: FloatArray) -> float:
    """The 95 % quantile of the distance from the median; where that is zero, the largest distance."""
    distance = np.abs(values - np.median(values))
    return float(np.quantile(distance, 0.95)) or float(distance.max())


def _median_trend(values: FloatArray) -> FloatArray:
    size = min(TREND_POINTS, len(values) // 2) | 1
    return np.asarray(ndimage.median_filter(values, size=size, mode="nearest"))


def _season_and_trend(values: FloatArray, period: int, params: StlResidualParams) -> FloatArray:
    """Robust by Huber's pseudo-values: refit with residuals cut at `CUT_SIGMAS`.

    STL's own robustness weights are not used: where the series is nearly free of noise they are zero around an
    anomaly, and loess then passes through it.
    """
    fit = _fit(values, period, params.seasonal_points | 1)
    for _ in range(REFITS if params.robust else 0):
        residual = values - fit
        cut = CUT_SIGMAS * SIGMA_PER_MAD * float(np.median(np.abs(residual)))
        fit = _fit(fit + np.clip(residual, -cut, cut), period, params.seasonal_points | 1)
    return fit


def _fit(values: FloatArray, period: int, seasonal: int) -> FloatArray:
    trend = math.ceil(1.5 * period / (1.0 - 1.5 / seasonal)) | 1
    # Units near 1: loess forms products that overflow or vanish for values near the ends of a float.
    centre = float(np.median(values))
    scale = float(np.max(np.abs(values - centre))) or 1.0
    fitted = STL(
        (values - centre) / scale,
        period=period,
        seasonal=seasonal,
        trend=trend,
        # A tenth of each smoother's width, as Cleveland et al. advise: loess there, straight lines between.
        seasonal_jump=max(1, seasonal // 10),
        trend_jump=max(1, trend // 10),
        low_pass_jump=max(1, period // 10),
    ).fit(inner_iter=ROUNDS, outer_iter=0)
    return np.asarray((fitted.seasonal + fitted.trend) * scale + centre)
