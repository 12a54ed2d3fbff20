"""Departures turned into tail probabilities, so that one threshold means the same in every series.

A calibrated score is -log10 of the probability that a point of the same series departs at least as far:
2 is one in a hundred, 3 one in a thousand. Departures come in robust sigmas, 0 or more.

Up to one in a hundred the probability is counted: the score runs straight between the history's quantiles at
`COUNTED`. Beyond the last of them, u, it is modelled:

    P(departure > z) = 0.01 * (1 + z - u) ** (-1 / m),    m = mean of log(1 + z - u) over the exceedances,

a generalised Pareto tail whose scale is one sigma. m is near 0.26 for normal data and grows where large
departures are a habit, so a series that often jumps needs a larger jump to score as high.
"""

from __future__ import annotations

import math
from bisect import insort

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

FloatArray = NDArray[np.float64]

#: Shares of the history below the quantiles whose probability is counted; the tail begins at the last.
COUNTED = (0.5, 0.9, 0.99)
#: (share of the absolute residuals, the normal quantile that it estimates), tried until one is not zero.
SPREADS = ((0.5, 0.6745), (0.9, 1.6449), (0.99, 2.5758))
#: Larger departures are not told apart; they come from histories with next to no spread.
MAX_DEPARTURE = 1e6
#: What m is believed to be before any history, twice that of normal data, and how many points of history that
#: belief is worth (ten exceedances). Without it the first exceedances of a short series would look arbitrarily
#: rare.
PRIOR_LOG_EXCESS = 0.5
PRIOR_POINTS = 1_000
#: A history whose tail is shorter than this is not taken for a law.
MIN_LOG_EXCESS = 0.05
#: One in a hundred: from here on a departure can hide others.
EVENT_SCORE = 2.0


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


def sigmas(size: FloatArray, residual: FloatArray, n_points: int | None) -> FloatArray:
    """``size`` over the spread of the residuals, at most MAX_DEPARTURE.

    The spread is the median absolute residual, made an estimate of a normal sigma: of the ``n_points`` before
    each point, or of the whole series when None. Where more than half of them are zero it is taken from a
    higher quantile; where all are, any departure is MAX_DEPARTURE.

    size, residual: (n,), no NaN, size 0 or more. Returns (n,), without unit.
    """
    magnitude = np.abs(residual)
    spread = np.zeros_like(magnitude)
    for share, normal_quantile in SPREADS:
        without = np.flatnonzero(spread == 0)
        if not len(without):
            break
        if n_points is None:
            wider = np.full_like(magnitude, np.quantile(magnitude, share))
        else:
            # Often only the first points have no spread yet: go no further than they do.
            wider = lagged(rolling_quantile(magnitude[: without[-1] + 1], share, n_points), 0.0)
        spread[without] = wider[without] / normal_quantile
    unlimited = np.where(size > 0, MAX_DEPARTURE, 0.0)
    with np.errstate(over="ignore"):  # a spread near the smallest float: the ratio is cut below
        ratio = np.divide(size, spread, out=unlimited, where=spread > 0)
    return np.minimum(ratio, MAX_DEPARTURE)


def one_sided(residual: FloatArray, direction: str) -> FloatArray:
    """Size of what counts: ``high`` keeps positive residuals, ``low`` negative ones, ``both`` all."""
    if direction == "high":
        return np.maximum(residual, 0.0)
    if direction == "low":
        return np.maximum(-residual, 0.0)
    return np.abs(residual)


def causal_surprise(departure: FloatArray, n_points: int, n_warm_up: int) -> FloatArray:
    """Calibrated scores; each point's history is the points before it.

    The quantiles come from the last ``n_points``; m forgets with that time constant. The first half of
    ``n_warm_up`` is left out of every history, because sigmas of so few residuals are hardly sigmas; the first
    ``n_warm_up`` points score 0.

    departure: (n,), no NaN. Returns (n,), 0 or more.
    """
    n_skipped = n_warm_up // 2
    z = np.minimum(departure[n_skipped:], MAX_DEPARTURE)
    quantiles = [lagged(rolling_quantile(z, share, n_points), 0.0) for share in COUNTED]
    excess = np.log1p(np.maximum(z - quantiles[-1], 0.0))
    # An exceedance of a short history is too common to tell how long the tail is.
    learnt = np.where(np.arange(len(z)) >= n_warm_up - n_skipped, excess, 0.0)
    forget = [1.0, -(1.0 - 1.0 / n_points)]
    total = lagged(signal.lfilter([1.0], forget, learnt), 0.0)
    count = lagged(signal.lfilter([1.0], forget, (learnt > 0).astype(np.float64)), 0.0)
    score = np.zeros_like(departure)
    score[n_skipped:] = _counted(z, quantiles, np.arange(len(z))) + _modelled(excess, total, count)
    score[:n_warm_up] = 0.0
    return score


def batch_surprise(departure: FloatArray) -> FloatArray:
    """As `causal_surprise`, with the whole series as every point's history."""
    z = np.minimum(departure, MAX_DEPARTURE)
    quantiles = [np.full_like(z, np.quantile(z, share, method="higher")) for share in COUNTED]
    excess = np.log1p(np.maximum(z - quantiles[-1], 0.0))
    total = np.full_like(z, excess.sum())
    count = np.full_like(z, np.count_nonzero(excess))
    return _counted(z, quantiles, np.full(len(z), len(z))) + _modelled(excess, total, count)


def _counted(z: FloatArray, quantiles: list[FloatArray], n_history: NDArray[np.intp]) -> FloatArray:
    # What is above k points of history was counted to be one in k + 1, and no rarer.
    at_most = np.log10(1.0 + n_history)
    score, below, score_below = np.zeros_like(z), np.zeros_like(z), np.zeros_like(z)
    for share, quantile in zip(COUNTED, quantiles, strict=True):
        score_here = np.minimum(-math.log10(1.0 - share), at_most)
        width = quantile - below
        # Equal quantiles, as where most departures are zero: whatever is above them has passed both.
        gone = np.clip(z - below, 0.0, width)
        way = np.divide(gone, width, out=np.ones_like(z), where=width > 0)
        passed = score_below + (score_here - score_below) * way
        score = np.where(z > below, passed, score)
        below, score_below = quantile, score_here
    return score


def _modelled(excess: FloatArray, total: FloatArray, count: FloatArray) -> FloatArray:
    n_prior = PRIOR_POINTS * (1.0 - COUNTED[-1])
    mean = (total + n_prior * PRIOR_LOG_EXCESS) / (count + n_prior)
    return np.asarray(excess / np.maximum(mean, MIN_LOG_EXCESS) / math.log(10.0))


def hold_off(score: FloatArray, n_points: int) -> FloatArray:
    """Zero for what is less surprising than a recent event.

    An event is a score of `EVENT_SCORE` or more that is not hidden itself. It is remembered with a half-life of
    ``n_points``: with 1, a score of 4 hides scores under 4 at the next point, under 2 at the one after, then
    under 1. 0 hides nothing.

    >>> hold_off(np.array([0.5, 4.0, 3.5, 1.9, 1.1, 0.2]), 1)
    array([0.5, 4. , 0. , 0. , 1.1, 0. ])
    """
    if n_points == 0:
        return score
    keep = 0.5 ** (1.0 / n_points)
    out = score.tolist()
    remembered = 0.0
    for i, value in enumerate(out):
        if value < remembered:
            out[i] = 0.0
            remembered *= keep
        elif value >= EVENT_SCORE:
            remembered = value
        else:
            remembered *= keep
    return np.asarray(out, dtype=np.float64)
