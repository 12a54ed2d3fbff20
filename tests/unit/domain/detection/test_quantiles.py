from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynomaly_tasks.domain.detection.quantiles import TAIL_VALUES, QuantileSummary


def summary_of(values: np.ndarray, *, split: int = 10_000, buffer_values: int = 8_192) -> QuantileSummary:
    summary = QuantileSummary(buffer_values)
    for start in range(0, len(values), split):
        summary.update(values[start : start + split])
    return summary


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.lists(st.floats(-1e6, 1e6), max_size=20))
def test_few_values_are_counted_exactly(values: list[float], asked: list[float]) -> None:
    x = np.array(values)
    distribution = summary_of(x, split=7).distribution()

    for value in [*asked, *values[:5]]:
        at = np.array([value])
        assert distribution.n_at_most(at)[0] == np.count_nonzero(x <= value)
        assert distribution.n_below(at)[0] == np.count_nonzero(x < value)


@pytest.mark.parametrize("kind", ["normal", "lognormal", "integers", "sorted"])
def test_ranks_of_many_values_are_within_a_thousandth(kind: str) -> None:
    rng = np.random.default_rng(1)
    x = {
        "normal": lambda: rng.normal(size=400_000),
        "lognormal": lambda: rng.lognormal(0, 2, 400_000),
        "integers": lambda: rng.integers(0, 30, 400_000).astype(float),
        "sorted": lambda: np.sort(rng.normal(size=400_000)),
    }[kind]()
    distribution = summary_of(x).distribution()
    ordered = np.sort(x)
    asked = np.concatenate([ordered[::997], rng.normal(size=500)])

    error_at_most = distribution.n_at_most(asked) - np.searchsorted(ordered, asked, side="right")
    error_below = distribution.n_below(asked) - np.searchsorted(ordered, asked, side="left")

    assert np.abs(error_at_most).max() / len(x) < 1e-3
    assert np.abs(error_below).max() / len(x) < 1e-3


def test_the_tails_of_many_values_are_exact() -> None:
    x = np.random.default_rng(2).normal(size=300_000)
    ordered = np.sort(x)
    distribution = summary_of(x).distribution()

    low, high = ordered[: TAIL_VALUES - 1], ordered[-TAIL_VALUES + 1 :]

    np.testing.assert_array_equal(distribution.n_at_most(low), np.arange(1, TAIL_VALUES))
    above = len(x) - distribution.n_below(high)
    np.testing.assert_allclose(above, np.arange(TAIL_VALUES - 1, 0, -1), atol=1e-6)


def test_how_values_are_split_into_batches_makes_no_difference() -> None:
    x = np.random.default_rng(3).normal(size=200_000)
    a, b = summary_of(x, split=10_000).distribution(), summary_of(x, split=33_333).distribution()

    np.testing.assert_array_equal(a.points, b.points)
    np.testing.assert_array_equal(a.at_most, b.at_most)


def test_merged_halves_know_all_values() -> None:
    x = np.random.default_rng(4).exponential(size=300_000)
    left, right = summary_of(x[:120_000]), summary_of(x[120_000:])

    left.merge(right)

    distribution, ordered = left.distribution(), np.sort(x)
    asked = ordered[::1_009]
    error = distribution.n_at_most(asked) - np.searchsorted(ordered, asked, side="right")
    assert distribution.n == len(x)
    assert np.abs(error).max() / len(x) < 1e-3


def test_a_short_and_a_long_summary_merge_either_way() -> None:
    x = np.random.default_rng(5).normal(size=100_100)
    long, short = summary_of(x[:100_000]), summary_of(x[100_000:])
    again_long, again_short = summary_of(x[:100_000]), summary_of(x[100_000:])

    long.merge(short)
    again_short.merge(again_long)

    for merged in (long, again_short):
        distribution = merged.distribution()
        assert distribution.n == 100_100
        assert distribution.at_most[-1] == pytest.approx(100_100)


def test_many_equal_values_keep_their_weight() -> None:
    x = np.concatenate([np.zeros(150_000), np.ones(50_000)])
    distribution = summary_of(np.random.default_rng(6).permutation(x)).distribution()

    share = distribution.n_at_most(np.array([0.0, 1.0])) / distribution.n

    np.testing.assert_allclose(share, [0.75, 1.0], atol=1e-3)


def test_nothing_seen_has_no_distribution() -> None:
    with pytest.raises(ValueError, match="no values"):
        QuantileSummary().distribution()


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=60),
    st.lists(st.integers(-1, 10), min_size=1, max_size=60),
)
def test_few_and_many_values_are_located_alike(seen: list[int], asked: list[int]) -> None:
    distribution = summary_of(np.array(seen, dtype=float)).distribution()
    values = np.array([*asked, np.nan], dtype=float)

    index, equal = distribution.locate(values)

    assert index.tolist() == np.searchsorted(distribution.points, values).tolist()
    assert equal.tolist() == np.isin(values, distribution.points).tolist()
