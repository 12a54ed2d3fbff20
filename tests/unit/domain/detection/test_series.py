from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from pynomaly_tasks.domain.detection.series import MIN_POINTS, SeriesScores, score_series
from pynomaly_tasks.domain.detection.series_params import (
    SERIES_PARAMS,
    RollingRobustZParams,
    SpectralResidualParams,
    StlResidualParams,
)
from pynomaly_tasks.errors import InvalidDataset, InvalidRequest

NAMES = tuple(SERIES_PARAMS)
HOUR = np.timedelta64(1, "h")
START = np.datetime64("2024-03-01T00:00", "ns")


def score(
    name: str, values: np.ndarray, timestamps: np.ndarray | None = None, **params: object
) -> SeriesScores:
    return score_series(name, SERIES_PARAMS[name][0](**params), timestamps, values, seed=0)


def daily(n: int = 2_400, seed: int = 0, noise: float = 0.2) -> np.ndarray:
    """Hourly values with a daily season."""
    return np.sin(np.arange(n) * (2 * np.pi / 24)) + np.random.default_rng(seed).normal(0.0, noise, n)


def hours(n: int) -> np.ndarray:
    return START + np.arange(n) * HOUR


@pytest.mark.parametrize("name", NAMES)
def test_planted_spikes_lead_the_ranking(name: str) -> None:
    values = daily()
    planted = [1_200, 1_700, 2_399]
    values[planted] += [6.0, -6.0, 6.0]

    scores = score(name, values, hours(len(values)))

    assert set(np.argsort(-scores.score)[:3]) == set(planted)
    assert np.all(scores.score[planted] > 2.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_spike_is_found_in_a_short_series(name: str) -> None:
    values = np.random.default_rng(1).normal(50.0, 1.0, 110)
    values[90] = 75.0

    assert np.argmax(score(name, values).score) == 90


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("constant", [0.0, 0.1, -1e9, 1e150])
def test_a_constant_series_scores_zero(name: str, constant: float) -> None:
    scores = score(name, np.full(500, constant))

    assert not scores.score.any()
    np.testing.assert_allclose(scores.expected, constant, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_series_scores_the_same_twice_and_with_any_seed(name: str) -> None:
    values = daily(seed=2)
    params = SERIES_PARAMS[name][0]()

    first = score_series(name, params, hours(len(values)), values, seed=1)
    second = score_series(name, params, hours(len(values)), values, seed=2)

    np.testing.assert_array_equal(first.score, second.score)
    np.testing.assert_array_equal(first.expected, second.expected)
    assert first.warnings == second.warnings


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shift", [0.0, 1_000.0, -7.0])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 4_096.0])
def test_unit_and_origin_of_the_values_do_not_matter(name: str, shift: float, scale: float) -> None:
    values = daily(1_000, seed=3)
    values[700] += 5.0

    plain = score(name, values)
    moved = score(name, (values + shift) * scale)

    np.testing.assert_allclose(moved.score, plain.score, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(moved.expected / scale - shift, plain.expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@given(values=arrays(np.float64, st.integers(80, 160), elements=st.floats(-1e150, 1e150)), data=st.data())
def test_scores_are_finite_and_never_negative(name: str, values: np.ndarray, data: st.DataObject) -> None:
    missing = data.draw(st.sets(st.integers(0, len(values) - 1), max_size=20))
    values[list(missing)] = np.nan

    scores = score(name, values)

    assert scores.score.shape == scores.expected.shape == values.shape
    assert np.all(np.isfinite(scores.score))
    assert np.all(scores.score >= 0.0)
    assert set(np.flatnonzero(np.isnan(scores.expected))) == missing


@pytest.mark.parametrize("name", NAMES)
def test_direction_counts_one_side_only(name: str) -> None:
    values = daily(noise=0.1)
    values[[800, 1_600]] += [4.0, -4.0]

    both = score(name, values).score
    high = score(name, values, direction="high").score
    low = score(name, values, direction="low").score

    assert np.all(both[[800, 1_600]] > 2.0)
    assert high[800] > 2.0
    assert high[1_600] == 0.0
    assert low[1_600] > 2.0
    assert low[800] == 0.0


# Missing values, order, gaps


@pytest.mark.parametrize("name", NAMES)
def test_missing_and_infinite_values_score_zero_and_say_so(name: str) -> None:
    values = daily()
    values[[5, 600, 601, 602]] = np.nan
    values[1_000] = np.inf

    scores = score(name, values, hours(len(values)))

    assert not scores.score[[5, 600, 601, 602, 1_000]].any()
    assert np.isnan(scores.expected[[5, 600, 601, 602, 1_000]]).all()
    assert "5 of 2400 values are missing; they score 0" in scores.warnings


@pytest.mark.parametrize("name", NAMES)
def test_missing_values_score_what_they_are_configured_to(name: str) -> None:
    values = daily()
    values[600] = np.nan

    scores = score(name, values, missing_score=7.5)

    assert scores.score[600] == 7.5


def test_missing_values_do_not_change_the_scores_of_others() -> None:
    values = daily(1_000)
    values[800] += 5.0
    with_missing = np.insert(values, [100, 500], np.nan)

    plain = score("rolling_robust_z", values).score
    scored = score("rolling_robust_z", with_missing).score

    np.testing.assert_array_equal(scored[~np.isnan(with_missing)], plain)


@pytest.mark.parametrize("name", NAMES)
def test_rows_out_of_order_score_as_in_order(name: str) -> None:
    values = daily(1_000)
    values[700] += 5.0
    shuffled = np.random.default_rng(0).permutation(1_000)

    in_order = score(name, values, hours(1_000))
    scores = score(name, values[shuffled], hours(1_000)[shuffled])

    np.testing.assert_array_equal(scores.score, in_order.score[shuffled])
    assert any("not in order" in warning for warning in scores.warnings)


@pytest.mark.parametrize("name", NAMES)
def test_repeated_timestamps_are_all_scored_with_a_warning(name: str) -> None:
    values, timestamps = daily(1_000), hours(1_000)
    timestamps[701:703] = timestamps[700]
    values[702] += 9.0

    scores = score(name, values, timestamps)

    assert any("2 timestamps repeat an earlier one" in warning for warning in scores.warnings)
    assert not np.isnan(scores.expected).any()
    assert np.argmax(scores.score) in (700, 701, 702)


@pytest.mark.parametrize("name", NAMES)
def test_rows_without_a_timestamp_count_as_missing(name: str) -> None:
    values, timestamps = daily(1_000), hours(1_000)
    timestamps[300] = np.datetime64("NaT")
    values[300] = 99.0

    scores = score(name, values, timestamps)

    assert scores.score[300] == 0.0
    assert scores.warnings[0] == "1 rows have no timestamp; they are treated as missing values"


@pytest.mark.parametrize("name", ["stl_residual", "spectral_residual"])
def test_a_gap_keeps_the_season_in_step(name: str) -> None:
    kept = np.r_[0:1_000, 1_007:2_400]
    values = daily()
    values[1_800] += 6.0

    scores = score(name, values[kept], hours(2_400)[kept])

    assert kept[np.argmax(scores.score)] == 1_800
    assert "7 of 2400 evenly spaced points are missing; filled along straight lines" in scores.warnings


def test_a_season_is_expected_across_a_gap() -> None:
    kept = np.r_[0:1_000, 1_007:2_400]
    values = daily(noise=0.05)

    scores = score("stl_residual", values[kept], hours(2_400)[kept])

    truth = np.sin(np.arange(2_400) * (2 * np.pi / 24))
    assert np.quantile(np.abs(scores.expected - truth[kept]), 0.95) < 0.15


@pytest.mark.parametrize("name", ["stl_residual", "spectral_residual"])
def test_uneven_timestamps_are_taken_as_even_with_a_warning(name: str) -> None:
    rng = np.random.default_rng(8)
    timestamps = START + np.cumsum(rng.integers(1, 7_200, 1_000)) * np.timedelta64(1, "s")

    uneven = score(name, daily(1_000), timestamps)
    without = score(name, daily(1_000))

    np.testing.assert_array_equal(uneven.score, without.score)
    assert any("not evenly spaced" in warning for warning in uneven.warnings)


@pytest.mark.parametrize("name", ["stl_residual", "spectral_residual"])
def test_many_rows_at_one_time_are_scored_each_by_itself(name: str) -> None:
    values, timestamps = daily(1_000), np.repeat(hours(500), 2)
    values[701] += 9.0

    scores = score(name, values, timestamps)

    assert np.argmax(scores.score) == 701
    assert any("not evenly spaced" in warning for warning in scores.warnings)


# Refusals


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_missing", [0, 500])
def test_a_series_too_short_is_refused_with_the_limit(name: str, n_missing: int) -> None:
    least = MIN_POINTS[name]
    too_short = np.r_[daily(least - 1), np.full(n_missing, np.nan)]

    with pytest.raises(InvalidDataset, match=f"{least - 1} values that are not missing.*at least {least}"):
        score(name, too_short)
    assert len(score(name, daily(least)).score) == least


def test_a_value_too_large_to_square_is_refused() -> None:
    values = daily(100)
    values[3] = 1e200

    with pytest.raises(InvalidDataset, match="rescale"):
        score("rolling_robust_z", values)


def test_a_series_shorter_than_two_given_periods_is_refused() -> None:
    with pytest.raises(InvalidDataset, match="period_points 60 needs at least 120"):
        score("stl_residual", daily(100), period_points=60)


def test_an_unknown_detector_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match=r"no series detector 'arima'.*stl_residual"):
        score_series("arima", RollingRobustZParams(), None, daily(100), seed=0)


def test_parameters_of_another_detector_are_a_programming_error() -> None:
    with pytest.raises(TypeError, match="takes StlResidualParams"):
        score_series("stl_residual", RollingRobustZParams(), None, daily(100), seed=0)


@pytest.mark.parametrize(
    ("model", "params", "says"),
    [
        (RollingRobustZParams, {"window_points": 3}, "window_points"),
        (
            RollingRobustZParams,
            {"window_points": 15},
            r"level_points \(21\) must be less than window_points \(15\)",
        ),
        (RollingRobustZParams, {"watch": []}, "watch"),
        (RollingRobustZParams, {"watch": ["level", "level"]}, "watch names something twice"),
        (RollingRobustZParams, {"watch": ["spread"], "direction": "low"}, "spread has no direction"),
        (RollingRobustZParams, {"missing_score": float("nan")}, "missing_score"),
        (StlResidualParams, {"period_points": 1}, "period_points"),
        (StlResidualParams, {"periods": 24}, "periods"),
        (SpectralResidualParams, {"window_points": 10**6}, "window_points"),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(
    model: type, params: dict[str, object], says: str
) -> None:
    with pytest.raises(ValidationError, match=says):
        model(**params)
