"""Scoring one series: the rules for time, gaps and missing values, then the detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pynomaly_tasks.domain.detection.calibration import FloatArray
from pynomaly_tasks.domain.detection.series_params import (
    RollingRobustZParams,
    SeriesParams,
    SpectralResidualParams,
    StlResidualParams,
)
from pynomaly_tasks.errors import InvalidDataset

MIN_POINTS = {"rolling_robust_z": 30, "stl_residual": 30, "spectral_residual": 30}


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesScores:
    """Scores in the order of the rows given."""

    score: FloatArray  #: (n,), finite, 0 or more; -log10 of the tail probability: 3 is one in a thousand
    expected: FloatArray  #: (n,), what the detector expected; NaN where nothing could be expected
    warnings: tuple[str, ...]


def score_series(
    name: str,
    params: SeriesParams,
    timestamps: NDArray[np.datetime64] | None,
    values: FloatArray,
    seed: int,
) -> SeriesScores:
    """Score each value of one series by the detector ``name``."""
    del seed
    warnings: list[str] = []
    values = np.asarray(values, dtype=np.float64)
    order = np.arange(len(values))
    if timestamps is not None:
        order = np.argsort(timestamps, kind="stable")
    present = order[np.isfinite(values[order])]
    if len(present) < MIN_POINTS[name]:
        raise InvalidDataset.of("values", f"{len(present)} values; {name} needs at least {MIN_POINTS[name]}")
    x = values[present]
    part, part_expected = _detect(params, x)
    score = np.full(len(values), params.missing_score)
    expected = np.full(len(values), np.nan)
    score[present] = part
    expected[present] = part_expected
    return SeriesScores(score=score, expected=expected, warnings=tuple(warnings))


def _detect(params: Any, x: FloatArray) -> tuple[FloatArray, FloatArray]:
    if isinstance(params, RollingRobustZParams):
        from pynomaly_tasks.domain.detection.rolling_robust_z import score_rolling_robust_z

        return score_rolling_robust_z(x, params)
    if isinstance(params, StlResidualParams):
        from pynomaly_tasks.domain.detection.stl_residual import score_stl_residual

        return score_stl_residual(x, params.period_points or 24, params)
    if isinstance(params, SpectralResidualParams):
        from pynomaly_tasks.domain.detection.spectral_residual import score_spectral_residual

        return score_spectral_residual(x, params)
    raise TypeError(f"no series detector takes {type(params).__name__}")
