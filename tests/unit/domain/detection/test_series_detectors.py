from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pynomaly_tasks.domain.detection.rolling_robust_z import score_rolling_robust_z
from pynomaly_tasks.domain.detection.seasonality import find_period
from pynomaly_tasks.domain.detection.series import score_series
from pynomaly_tasks.domain.detection.series_params import RollingRobustZParams, StlResidualParams


def rolling(values: np.ndarray, **params: object) -> np.ndarray:
    return score_series("rolling_robust_z", RollingRobustZParams(**params), None, values, seed=0).score


@given(
    values=arrays(np.float64, st.integers(120, 300), elements=st.floats(-1e12, 1e12)),
    cut=st.integers(40, 300),
)
def test_rolling_robust_z_does_not_look_ahead(values: np.ndarray, cut: int) -> None:
    params = RollingRobustZParams(window_points=31, spread_points=61, calibration_points=100)

    score, expected = score_rolling_robust_z(values, params)
    prefix_score, prefix_expected = score_rolling_robust_z(values[:cut], params)

    np.testing.assert_array_equal(score[:cut], prefix_score)
    np.testing.assert_array_equal(expected[:cut], prefix_expected)


@pytest.mark.large
def test_rolling_robust_z_does_not_look_ahead_with_its_default_windows() -> None:
    values = np.cumsum(np.random.default_rng(1).standard_t(3, size=12_000))

    for cut in (700, 10_345):
        np.testing.assert_array_equal(rolling(values)[:cut], rolling(values[:cut]))


def test_a_level_shift_is_found_at_once_and_soon_normal() -> None:
    values = np.random.default_rng(2).normal(0.0, 1.0, 6_000)
    values[3_000:] += 12.0

    score = rolling(values, hold_off_points=0)

    assert np.argmax(score) == 3_000
    firing = np.flatnonzero(score[3_000:] >= 3.0)
    assert len(firing) <= 15  # half of level_points, and a few by chance
    assert firing.max(initial=0) <= 40


def test_the_usual_level_is_shown_as_expected_until_half_the_window_is_new() -> None:
    values = np.random.default_rng(2).normal(0.0, 1.0, 6_000)
    values[3_000:] += 12.0

    _, expected = score_rolling_robust_z(values, RollingRobustZParams())

    assert np.all(np.abs(expected[3_012:3_240]) < 2.0)
    assert np.all(np.abs(expected[3_300:] - 12.0) < 2.0)


def test_a_departure_from_a_series_of_mostly_zeros_is_found() -> None:
    values = np.zeros(3_000)
    values[::40] = 1.0
    values[2_415] = 30.0

    assert np.argmax(rolling(values)) == 2_415


def test_the_first_departure_from_a_constant_is_found() -> None:
    values = np.full(1_000, 5.0)
    values[700] = 5.000001

    assert np.argmax(rolling(values)) == 700


def test_a_flat_line_in_a_noisy_series_is_found_by_its_spread() -> None:
    values = np.random.default_rng(3).normal(0.0, 1.0, 4_000)
    values[3_000:3_060] = 0.3

    score = rolling(values, watch=["spread"])

    assert 3_000 <= np.argmax(score) < 3_060


def test_a_burst_of_noise_is_found_by_its_spread() -> None:
    values = np.random.default_rng(4).normal(0.0, 1.0, 4_000)
    values[3_000:3_060] *= 4.0

    assert 3_000 <= np.argmax(rolling(values, watch=["spread"])) < 3_060


def test_a_step_within_the_usual_range_is_found_by_its_change() -> None:
    walk = np.sin(np.arange(4_000) / 300.0) + np.random.default_rng(5).normal(0.0, 0.01, 4_000)
    walk[3_000] = -walk[3_000]

    assert np.argmax(rolling(walk, watch=["change"])) in (3_000, 3_001)
    assert np.argmax(rolling(walk)) in (3_000, 3_001)


@pytest.mark.large
def test_one_threshold_means_the_same_in_quiet_and_restless_series() -> None:
    rng = np.random.default_rng(6)
    shares = [
        np.mean(rolling(values, hold_off_points=0)[5_000:] >= 2.0)
        for values in (
            rng.normal(size=30_000),
            rng.standard_t(3, size=30_000),
            rng.lognormal(size=30_000),
            np.cumsum(rng.normal(size=30_000)),
        )
    ]

    assert max(shares) <= 0.014
    assert min(shares) >= 0.004


@pytest.mark.large
def test_rolling_robust_z_scores_a_hundred_thousand_points_a_second_of_cpu_time() -> None:
    values = np.random.default_rng(7).normal(size=200_000)

    start = time.process_time()
    rolling(values)

    assert time.process_time() - start < 2.0


@pytest.mark.parametrize("period", [12, 24, 288])
def test_the_season_is_found_without_timestamps(period: int) -> None:
    n = np.arange(20 * period)
    values = np.sin(n * (2 * np.pi / period)) + 0.002 * n + np.random.default_rng(8).normal(0, 0.3, len(n))

    assert find_period(values, None) == period


@pytest.mark.parametrize(("step_s", "period"), [(3_600.0, 24), (300.0, 288)])
def test_a_calendar_season_is_preferred(step_s: float, period: int) -> None:
    n = np.arange(20 * period)
    values = np.sin(n * (2 * np.pi / period)) + np.random.default_rng(9).normal(0, 0.5, len(n))

    assert find_period(values, step_s) == period


def test_a_week_is_chosen_over_a_day_when_days_of_the_week_differ() -> None:
    n = np.arange(24 * 7 * 10)
    weekday = (n // 24) % 7 < 5
    values = np.sin(n * (2 * np.pi / 24)) * np.where(weekday, 1.0, 0.2)

    assert find_period(values, 3_600.0) == 24 * 7


def test_outliers_do_not_hide_the_season() -> None:
    n = np.arange(24 * 60)
    values = np.sin(n * (2 * np.pi / 24))
    values[[100, 500, 900]] = 1e6

    assert find_period(values, 3_600.0) == 24


@pytest.mark.parametrize(
    "values", [np.zeros(500), np.full(500, 0.1), np.random.default_rng(10).normal(size=500)]
)
def test_no_season_is_found_where_nothing_repeats(values: np.ndarray) -> None:
    assert find_period(values, 3_600.0) is None


def test_stl_finds_a_value_that_is_usual_at_another_hour() -> None:
    n = np.arange(24 * 60)
    values = 10 * np.sin(n * (2 * np.pi / 24)) + np.random.default_rng(11).normal(0, 0.3, len(n))
    night = 24 * 40 + 18
    values[night] = 5.0

    scores = score_series("stl_residual", StlResidualParams(), None, values, seed=0)

    assert np.argmax(scores.score) == night
    assert scores.expected[night] == pytest.approx(-10.0, abs=0.7)
    assert scores.warnings == ("a season of 24 points was found in the series",)


def test_stl_keeps_to_the_trend_when_nothing_repeats() -> None:
    values = np.linspace(0.0, 50.0, 600) + np.random.default_rng(12).normal(0, 0.2, 600)
    values[400] += 4.0

    scores = score_series("stl_residual", StlResidualParams(), None, values, seed=0)

    assert np.argmax(scores.score) == 400
    assert scores.warnings == ("no season was found in the series; only its trend was removed",)


def test_stl_on_a_perfect_season_scores_only_what_breaks_it() -> None:
    values = np.tile(np.arange(24.0), 40)
    assert not score_series("stl_residual", StlResidualParams(), None, values, seed=0).score.any()
    values[500] += 1.0

    scores = score_series("stl_residual", StlResidualParams(), None, values, seed=0)

    assert np.argmax(scores.score) == 500
