"""Departures turned into tail probabilities, so that one threshold means the same in every series.

A calibrated score is -log10 of the probability that a point of the same series departs at least as far:
2 is one in a hundred, 3 one in a thousand.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

FloatArray = NDArray[np.float64]

#: Share of the history above the tail's start. The tail beyond it is modelled, what is below is counted.
TAIL_SHARE = 0.05
#: Largest departure that is told apart; beyond it the logarithm would only amplify rounding.
MAX_DEPARTURE = 1e9
#: The mean log excess is held above this: a history without any tail is not taken for a perfect law.
MIN_LOG_EXCESS = 0.02


def rolling_quantile(x: FloatArray, share: float, n_points: int) -> FloatArray:
    """The value at ``share`` of the last ``n_points`` values up to and with each; while fewer, of all so far.

    x: (n,), no NaN. Returns (n,): values of x, never interpolated. O(n log n_points).
    """
    out = np.empty_like(x)
    head = min(n_points - 1, len(x))
    ordered: list[float] = []
    for i, value in enumerate(x[:head].tolist()):
        _insort(ordered, value)
        out[i] = ordered[min(int(share * len(ordered)), len(ordered) - 1)]
    if len(x) > head:
        rank = min(int(share * n_points), n_points - 1)
        # origin moves the window so that it ends at the point itself instead of being centred on it.
        filtered = ndimage.rank_filter(x, rank, size=n_points, origin=(n_points - 1) // 2, mode="nearest")
        out[head:] = filtered[head:]
    return out


def _insort(ordered: list[float], value: float) -> None:
    from bisect import insort

    insort(ordered, value)


def lagged(x: FloatArray, first: float) -> FloatArray:
    """Each point's predecessor; ``first`` for the first point."""
    out = np.empty_like(x)
    out[:1] = first
    out[1:] = x[:-1]
    return out


def causal_surprise(departure: FloatArray, n_points: int) -> FloatArray:
    """-log10 of the tail probability of each departure, given only the departures before it.

    The history is the last ``n_points``. Up to the quantile that leaves ``TAIL_SHARE`` above, p falls
    log-linearly; beyond it the tail is a power law whose exponent is Hill's estimate from the history.

    departure: (n,), 0 or more, no NaN. Returns (n,), 0 or more.
    """
    r = np.minimum(departure, MAX_DEPARTURE)
    start = lagged(rolling_quantile(r, 1.0 - TAIL_SHARE, n_points), np.inf)
    floor = np.maximum(start, 1e-12)
    excess = np.where(r > floor, np.log(np.maximum(r, 1e-300) / floor), 0.0)
    decay = 1.0 - 1.0 / n_points
    # Prior: one exceedance in each twenty points with mean log excess 0.3, worth 100 points.
    total = lagged(signal.lfilter([1.0], [1.0, -decay], excess), 0.0) + 100 * TAIL_SHARE * 0.3
    count = lagged(signal.lfilter([1.0], [1.0, -decay], (excess > 0).astype(float)), 0.0) + 100 * TAIL_SHARE
    return _surprise(r, floor, np.maximum(total / count, MIN_LOG_EXCESS))


def batch_surprise(departure: FloatArray) -> FloatArray:
    """As `causal_surprise`, with the whole series as every point's history."""
    r = np.minimum(departure, MAX_DEPARTURE)
    if not r.any():
        return np.zeros_like(r)
    start = max(float(np.quantile(r, 1.0 - TAIL_SHARE)), 1e-12)
    tail = r[r > start]
    mean = float(np.mean(np.log(tail / start))) if len(tail) else 0.3
    return _surprise(r, np.full_like(r, start), np.full_like(r, max(mean, MIN_LOG_EXCESS)))


def _surprise(r: FloatArray, start: FloatArray, mean_log_excess: FloatArray) -> FloatArray:
    at_start = -np.log10(TAIL_SHARE)
    below = np.minimum(r / start, 1.0) * at_start
    above = np.log(np.maximum(r / start, 1.0)) / mean_log_excess / np.log(10.0)
    return np.asarray(np.where(np.isfinite(start), below + above, 0.0))
