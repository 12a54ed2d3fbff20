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
#: Robust refits, and season-trend rounds in each.
OUTER_ITERATIONS = 3
INNER_ITERATIONS = 2


def score_stl_residual(
    values: FloatArray, period: int | None, params: StlResidualParams
) -> tuple[FloatArray, FloatArray]:
    """Scores, and season plus trend as what was expected.

    Without a period the trend is a centred rolling median and there is no season.

    values: (n,), evenly spaced, no NaN; at least two periods. Both results: (n,), finite.
    """
    expected = _median_trend(values) if period is None else _season_and_trend(values, period, params)
    residual = values - expected
    # What rounding leaves of a series that the fit explains fully is no departure.
    residual[np.abs(residual) <= 1e-9 * np.max(np.abs(values - np.median(values)))] = 0.0
    departure = sigmas(one_sided(residual, params.direction), residual, None)
    return batch_surprise(departure), expected


def _median_trend(values: FloatArray) -> FloatArray:
    size = min(TREND_POINTS, len(values) // 2) | 1
    return np.asarray(ndimage.median_filter(values, size=size, mode="nearest"))


def _season_and_trend(values: FloatArray, period: int, params: StlResidualParams) -> FloatArray:
    seasonal = params.seasonal_points | 1
    trend = math.ceil(1.5 * period / (1.0 - 1.5 / seasonal)) | 1
    # Units near 1: loess forms products that overflow or vanish for values near the ends of a float.
    centre = float(np.median(values))
    scale = float(np.max(np.abs(values - centre))) or 1.0
    fitted = STL(
        (values - centre) / scale,
        period=period,
        seasonal=seasonal,
        trend=trend,
        robust=params.robust,
        # A tenth of each smoother's width, as Cleveland et al. advise: loess there, straight lines between.
        seasonal_jump=max(1, seasonal // 10),
        trend_jump=max(1, trend // 10),
        low_pass_jump=max(1, period // 10),
    ).fit(inner_iter=INNER_ITERATIONS, outer_iter=OUTER_ITERATIONS if params.robust else 0)
    return np.asarray((fitted.seasonal + fitted.trend) * scale + centre)
