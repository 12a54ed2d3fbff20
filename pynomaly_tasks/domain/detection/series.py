"""Scoring one series: the rules for order, gaps and missing values, then the detector.

Order    Points are taken in time order; equal timestamps keep the order of the rows. Without timestamps the
         order of the rows is the order in time.
Missing  A missing or infinite value, or a row without a timestamp, scores ``missing_score`` (0 by default)
         and is expected to be NaN. It never enters another point's history.
Gaps     rolling_robust_z counts points, not time: a gap is no anomaly, and the step over it counts as one
         step. stl_residual and spectral_residual need even spacing: see `time_axis`.
Events   After a departure of 2 or more, smaller ones score 0 until it is forgotten (`hold_off_points`): one
         event takes one place in the ranking, not one for each of its points.
Scores   -log10 of the tail probability: 3 is one in a thousand, in every detector and every series.

Every rule that was applied is named in the warnings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pynomaly_tasks.domain.detection.calibration import FloatArray, hold_off
from pynomaly_tasks.domain.detection.seasonality import find_period
from pynomaly_tasks.domain.detection.series_params import (
    MAX_POINTS,
    SERIES_PARAMS,
    RollingRobustZParams,
    SeriesParams,
    SpectralResidualParams,
    StlResidualParams,
)
from pynomaly_tasks.domain.detection.time_axis import Grid, lay_grid, order_by_time
from pynomaly_tasks.errors import InvalidDataset, InvalidRequest

#: Fewer values than this are refused: no history can be learnt from them.
MIN_POINTS = {"rolling_robust_z": 40, "stl_residual": 30, "spectral_residual": 30}
#: Values beyond this overflow when squared.
MAX_MAGNITUDE = 1e150


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesScores:
    """Scores in the order of the rows given."""

    score: FloatArray  #: (n,), finite, 0 or more; larger is more anomalous; 3 is one in a thousand
    expected: FloatArray  #: (n,), in the unit of the values; NaN where the value is missing
    warnings: tuple[str, ...]


def score_series(
    name: str,
    params: SeriesParams,
    timestamps: NDArray[np.datetime64] | None,
    values: FloatArray,
    seed: int,
) -> SeriesScores:
    """Score each value of one series by the detector ``name`` of `SERIES_PARAMS`.

    timestamps: (n,), NaT allowed. values: (n,), NaN and infinite allowed. ``seed`` is taken because every
    detector takes one; the series detectors draw nothing at random. Raises InvalidRequest for an unknown
    name, InvalidDataset when there are too few or too many values, or one is too large to square.
    """
    del seed
    if name not in SERIES_PARAMS:
        raise InvalidRequest.of(
            "detector.name", f"no series detector {name!r}; use one of {list(SERIES_PARAMS)}"
        )
    if not isinstance(params, SERIES_PARAMS[name][0]):
        raise TypeError(f"{name} takes {SERIES_PARAMS[name][0].__name__}, not {type(params).__name__}")
    values = np.array(values, dtype=np.float64)
    if timestamps is not None and len(timestamps) != len(values):
        raise ValueError(f"{len(timestamps)} timestamps for {len(values)} values")
    values[~np.isfinite(values)] = np.nan
    order = order_by_time(timestamps, len(values))
    in_order = values[order.rows]
    _refuse(name, in_order)
    scored, surprise, part_expected, warnings = _detect(params, timestamps, values, order.rows)
    score = np.full(len(values), params.missing_score)
    expected = np.full(len(values), np.nan)
    score[scored] = hold_off(surprise, params.hold_off_points)
    expected[scored] = part_expected
    n_missing = len(values) - len(scored)
    if n_missing:
        warnings = (
            f"{n_missing} of {len(values)} values are missing; they score {params.missing_score:g}",
            *warnings,
        )
    return SeriesScores(score=score, expected=expected, warnings=(*order.warnings, *warnings))


def _refuse(name: str, values: FloatArray) -> None:
    n_present = int(np.count_nonzero(~np.isnan(values)))
    if n_present < MIN_POINTS[name]:
        raise InvalidDataset.of(
            "values",
            f"{n_present} values that are not missing; {name} needs at least {MIN_POINTS[name]}: "
            "give a longer series, or use a table detector",
        )
    if len(values) > MAX_POINTS:
        raise InvalidDataset.of(
            "values", f"{len(values)} points; at most {MAX_POINTS}: aggregate the series or score it in parts"
        )
    if np.nanmax(np.abs(values)) > MAX_MAGNITUDE:
        raise InvalidDataset.of("values", f"a value beyond {MAX_MAGNITUDE:g}: rescale the series")


def _detect(
    params: SeriesParams,
    timestamps: NDArray[np.datetime64] | None,
    values: FloatArray,
    rows: NDArray[np.intp],
) -> tuple[NDArray[np.intp], FloatArray, FloatArray, tuple[str, ...]]:
    """(rows that were scored, their scores, their expected values, warnings)."""
    present = rows[~np.isnan(values[rows])]
    if isinstance(params, RollingRobustZParams):
        from pynomaly_tasks.domain.detection.rolling_robust_z import score_rolling_robust_z

        return present, *score_rolling_robust_z(values[present], params), ()
    grid = lay_grid(None if timestamps is None else timestamps[rows], values[rows])
    cell = grid.cell[~np.isnan(values[rows])]
    if isinstance(params, StlResidualParams):
        from pynomaly_tasks.domain.detection.stl_residual import score_stl_residual

        period, warnings = _period(params, grid)
        score, expected = score_stl_residual(grid.values, period, params)
    elif isinstance(params, SpectralResidualParams):
        from pynomaly_tasks.domain.detection.spectral_residual import score_spectral_residual

        warnings = ()
        score, expected = score_spectral_residual(grid.values, params)
    else:
        raise TypeError(f"no series detector takes {type(params).__name__}")
    return present, score[cell], expected[cell], (*grid.warnings, *warnings)


def _period(params: StlResidualParams, grid: Grid) -> tuple[int | None, tuple[str, ...]]:
    n = len(grid.values)
    if params.period_points is not None:
        if n < 2 * params.period_points:
            raise InvalidDataset.of(
                "values",
                f"{n} evenly spaced points; period_points {params.period_points} needs at least "
                f"{2 * params.period_points}: give a longer series or a shorter period",
            )
        return params.period_points, ()
    period = find_period(grid.values, grid.step_s)
    if period is None:
        return None, ("no season was found in the series; only its trend was removed",)
    return period, (f"a season of {period} points was found in the series",)
