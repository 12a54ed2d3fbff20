from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pynomaly_tasks.domain.detection.calibration import (
    MAX_DEPARTURE,
    batch_surprise,
    causal_surprise,
    hold_off,
    rolling_quantile,
    sigmas,
)

N = 60_000
LAWS = {
    "normal": lambda rng: rng.normal(size=N),
    "student t, 3": lambda rng: rng.standard_t(3, size=N),
    "lognormal": lambda rng: rng.lognormal(size=N),
    "laplace": lambda rng: rng.laplace(size=N),
}
floats = st.floats(-1e6, 1e6)


def brute_force_quantile(x: np.ndarray, share: float, n: int) -> np.ndarray:
    windows = [np.sort(x[max(0, i + 1 - n) : i + 1]) for i in range(len(x))]
    return np.array([w[min(int(share * len(w)), len(w) - 1)] for w in windows])


@given(
    x=arrays(np.float64, st.integers(1, 60), elements=floats),
    share=st.sampled_from([0.0, 0.5, 0.9, 0.99]),
    n=st.integers(1, 70),
)
def test_rolling_quantile_is_the_quantile_of_each_trailing_window(
    x: np.ndarray, share: float, n: int
) -> None:
    np.testing.assert_array_equal(rolling_quantile(x, share, n), brute_force_quantile(x, share, n))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("calibrate", [batch_surprise, lambda z: causal_surprise(z, 10_000, 20)])
def test_a_score_of_two_is_one_in_a_hundred_whatever_the_law(law: str, calibrate: object) -> None:
    z = np.abs(LAWS[law](np.random.default_rng(3)))

    settled = calibrate(z)[10_000:]  # type: ignore[operator]

    assert (settled >= 1.0).mean() == pytest.approx(0.1, rel=0.1)
    assert (settled >= 2.0).mean() == pytest.approx(0.01, rel=0.15)


@pytest.mark.parametrize("law", LAWS)
def test_a_score_of_three_is_never_more_often_than_one_in_a_thousand(law: str) -> None:
    z = np.abs(LAWS[law](np.random.default_rng(4)))

    assert (batch_surprise(z) >= 3.0).mean() <= 1.1e-3


def test_the_same_departure_scores_less_where_large_departures_are_a_habit() -> None:
    rng = np.random.default_rng(5)
    calm = np.abs(rng.normal(size=5_000))
    restless = calm.copy()
    restless[::50] *= 10.0
    calm[-1] = restless[-1] = 15.0

    assert causal_surprise(calm, 3_000, 20)[-1] > causal_surprise(restless, 3_000, 20)[-1] + 1.0


@given(x=arrays(np.float64, st.integers(2, 80), elements=st.floats(0, 1e9)), cut=st.integers(1, 80))
def test_the_score_of_a_prefix_is_the_prefix_of_the_scores(x: np.ndarray, cut: int) -> None:
    np.testing.assert_array_equal(causal_surprise(x, 30, 5)[:cut], causal_surprise(x[:cut], 30, 5))


@given(x=arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1e300)))
def test_scores_are_finite_and_never_negative(x: np.ndarray) -> None:
    for score in (batch_surprise(x), causal_surprise(x, 30, 1)):
        assert np.all(np.isfinite(score))
        assert np.all(score >= 0.0)


def test_larger_departures_never_score_less_in_one_batch() -> None:
    z = np.sort(np.abs(np.random.default_rng(6).standard_t(2, size=3_000)))

    assert np.all(np.diff(batch_surprise(z)) >= 0.0)


def test_sigmas_of_normal_residuals_are_their_standard_scores() -> None:
    residual = np.random.default_rng(7).normal(0.0, 4.0, 20_000)

    whole = sigmas(np.abs(residual), residual, None)
    rolling = sigmas(np.abs(residual), residual, 2_001)

    np.testing.assert_allclose(whole, np.abs(residual) / 4.0, rtol=0.03)
    np.testing.assert_allclose(rolling[5_000:], np.abs(residual[5_000:]) / 4.0, rtol=0.15)


def test_sigmas_come_from_a_higher_quantile_when_most_residuals_are_zero() -> None:
    residual = np.zeros(1_000)
    residual[::5] = 1.0

    assert sigmas(np.abs(residual), residual, None).max() == pytest.approx(1.6449)


def test_sigmas_without_any_spread_are_zero_or_the_maximum() -> None:
    residual = np.zeros(1_000)
    residual[500] = 1e-9

    for n_points in (None, 101):
        departure = sigmas(np.abs(residual), residual, n_points)
        assert departure[500] == MAX_DEPARTURE
        assert np.count_nonzero(departure) == 1


def test_hold_off_keeps_what_is_more_surprising_and_forgets_with_its_half_life() -> None:
    score = np.array([1.0, 4.0, 3.9, 5.0, *[2.6] * 40])

    kept = hold_off(score, 10)

    assert kept[:4].tolist() == [1.0, 4.0, 0.0, 5.0]
    assert np.flatnonzero(kept[4:])[0] == 10
    assert hold_off(score, 0) is score
