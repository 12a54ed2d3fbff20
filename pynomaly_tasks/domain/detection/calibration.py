"""Departures turned into tail probabilities, so that one threshold means the same in every series.

A calibrated score is -log10 of the probability that a point of the same series departs at least as far:
2 is one in a hundred, 3 one in a thousand. Departures come in robust sigmas, 0 or more.

The law: below the 95 % quantile u of the history, scores only rank. Beyond it

    P(departure > z) = 0.05 * (1 + z - u) ** (-1 / m),    m = mean of log(1 + z - u) over the exceedances,

a generalised Pareto tail whose scale is one sigma. m is near 0.27 for normal data and grows where large
departures are a habit, so a series that often jumps needs a larger jump to score as high.
"""

from __future__ import annotations

import math
from bisect import insort

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

FloatArray = NDArray[np.float64]

#: Share of the history that counts as its tail.
TAIL_SHARE = 0.05
#: Larger departures are not told apart; they come from histories with next to no spread.
MAX_DEPARTURE = 1e6
#: What is believed about m before any history, heavier than normal, and how many points that belief is worth.
#: Without it the first exceedances of a short series would look arbitrarily rare.
PRIOR_LOG_EXCESS = 0.5
PRIOR_POINTS = 100
#: A history whose tail is shorter than this is not taken for a law.
MIN_LOG_EXCESS = 0.05


def rolling_quantile(x: FloatArray, share: float, n_points: int) -> FloatArray:
    """The value at ``share`` of the last ``n_points`` values, each point included; at first, of all so far.

    >>> rolling_quantile(np.array([5.0, 1.0, 3.0, 9.0, 7.0]), 0.5, 3)
    array([5., 5., 3., 3., 7.])

    x: (n,), no NaN. Returns (n,): values of x, never interpolated. A value depends on no later point.
    """
    out = np.empty_like(x)
    n_head = min(n_points - 1, len(x))
    ordered: list[float] = []
    for i, value in enumerate(x[:n_head].tolist()):
        insort(ordered, value)
        out[i] = ordered[_rank(share, i + 1)]
    if len(x) > n_head:
        # The origin moves the window so that it ends at the point itself instead of being centred on it.
        filtered = ndimage.rank_filter(
            x, _rank(share, n_points), size=n_points, origin=(n_points - 1) // 2, mode="nearest"
        )
        out[n_head:] = filtered[n_head:]
    return out


def _rank(share: float, n: int) -> int:
    return min(int(share * n), n - 1)


def lagged(x: FloatArray, first: float) -> FloatArray:
    """Each point's predecessor; ``first`` for the first point."""
    out = np.empty_like(x)
    out[:1] = first
    out[1:] = x[:-1]
    return out


def causal_surprise(departure: FloatArray, n_points: int) -> FloatArray:
    """Calibrated scores; each point's history is the points before it.

    u comes from the last ``n_points``; m forgets with that time constant.

    departure: (n,), no NaN. Returns (n,), 0 or more; 0 for the first point, which has no history.
    """
    z = np.minimum(departure, MAX_DEPARTURE)
    start = lagged(rolling_quantile(z, 1.0 - TAIL_SHARE, n_points), math.inf)
    excess = np.log1p(np.maximum(z - start, 0.0))
    keep = [1.0, -(1.0 - 1.0 / n_points)]
    prior = PRIOR_POINTS * TAIL_SHARE
    total = lagged(signal.lfilter([1.0], keep, excess), 0.0) + prior * PRIOR_LOG_EXCESS
    count = lagged(signal.lfilter([1.0], keep, (excess > 0).astype(np.float64)), 0.0) + prior
    return _surprise(z, start, excess, total / count)


def batch_surprise(departure: FloatArray) -> FloatArray:
    """As `causal_surprise`, with the whole series as every point's history."""
    z = np.minimum(departure, MAX_DEPARTURE)
    start = float(np.quantile(z, 1.0 - TAIL_SHARE, method="higher"))
    excess = np.log1p(np.maximum(z - start, 0.0))
    prior = PRIOR_POINTS * TAIL_SHARE
    mean = (excess.sum() + prior * PRIOR_LOG_EXCESS) / (np.count_nonzero(excess) + prior)
    return _surprise(z, np.full_like(z, start), excess, np.full_like(z, mean))


def _surprise(z: FloatArray, start: FloatArray, excess: FloatArray, mean_excess: FloatArray) -> FloatArray:
    # A history without any spread starts its tail at zero: there, every departure is in the tail.
    rank = np.divide(np.minimum(z, start), start, out=(z > 0).astype(np.float64), where=start > 0)
    rank[~np.isfinite(start)] = 0.0
    beyond = excess / np.maximum(mean_excess, MIN_LOG_EXCESS)
    return np.asarray(rank * -math.log10(TAIL_SHARE) + beyond / math.log(10.0))


def hold_off(score: FloatArray, n_points: int) -> FloatArray:
    """Zero for what is less surprising than a recent departure.

    A departure is remembered with a half-life of ``n_points``: with 20, a score of 4 hides scores under 2 for
    20 points and under 1 for 40. 0 returns ``score`` unchanged.
    """
    if n_points == 0:
        return score
    keep = 0.5 ** (1.0 / n_points)
    out = score.tolist()
    remembered = 0.0
    for i, value in enumerate(out):
        if value < remembered:
            out[i] = 0.0
        remembered = max(remembered * keep, value)
    return np.asarray(out, dtype=np.float64)
