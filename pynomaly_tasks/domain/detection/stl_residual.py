"""Departure from season and trend (STL, Cleveland et al. 1990), calibrated over the whole series."""

from __future__ import annotations

import numpy as np
from statsmodels.tsa.seasonal import STL

from pynomaly_tasks.domain.detection.calibration import FloatArray, batch_surprise
from pynomaly_tasks.domain.detection.rolling_robust_z import SIGMA_PER_MAD
from pynomaly_tasks.domain.detection.series_params import StlResidualParams


def score_stl_residual(
    values: FloatArray, period: int, params: StlResidualParams
) -> tuple[FloatArray, FloatArray]:
    """Scores and expected values. values: (n,), evenly spaced, no NaN; n at least two periods."""
    trend = int(np.ceil(1.5 * period / (1 - 1.5 / (params.seasonal_points | 1)))) | 1
    fitted = STL(
        values,
        period=period,
        seasonal=params.seasonal_points | 1,
        robust=params.robust,
        trend=trend,
        trend_jump=max(1, trend // 10),
        low_pass_jump=max(1, period // 10),
    ).fit(inner_iter=2, outer_iter=3 if params.robust else 0)
    residual = np.asarray(fitted.resid)
    size = {"both": np.abs(residual), "high": np.maximum(residual, 0), "low": np.maximum(-residual, 0)}
    departure = size[params.direction]
    spread = SIGMA_PER_MAD * float(np.median(np.abs(residual))) or float(np.mean(np.abs(residual)))
    score = batch_surprise(departure / spread) if spread > 0 else np.zeros_like(departure)
    return score, values - residual
