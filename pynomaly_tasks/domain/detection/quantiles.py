"""How the values of one column are spread, in bounded memory, mergeable, and the same on every run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pynomaly_tasks.domain.detection.detector import FloatArray

IntArray: TypeAlias = NDArray[np.intp]

#: Up to this many values every one is kept and all answers are exact.
EXACT_VALUES = 50_000
#: The lowest and highest values that are always kept: tails decide about anomalies.
TAIL_VALUES = 512
#: Points of a finished distribution between the tails; few enough to stay in the processor's cache.
MIDDLE_POINTS = 8_192


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """The empirical distribution function of one column."""

    n: int  #: values seen, missing ones not counted
    points: FloatArray  #: (m,), ascending, distinct
    at_most: FloatArray  #: (m,), how many values are <= each point; the last is n

    def n_at_most(self, values: FloatArray) -> FloatArray:
        """How many values are <= each of ``values``."""
        return self._count(np.searchsorted(self.points, values, side="right"))

    def n_below(self, values: FloatArray) -> FloatArray:
        """How many values are < each of ``values``."""
        return self._count(np.searchsorted(self.points, values, side="left"))

    def locate(self, values: FloatArray) -> tuple[IntArray, NDArray[np.bool_]]:
        """How many points are < each of ``values``, and whether the next point equals it. NaN is above all."""
        if len(values) < len(self.points):
            index: IntArray = np.searchsorted(self.points, values, side="left")
        else:
            # Sorting the values and finding the points among them costs a third of finding each value.
            order = np.argsort(values)
            after = np.searchsorted(values[order], self.points, side="right")
            index = np.empty(len(values), dtype=np.intp)
            index[order] = np.cumsum(np.bincount(after, minlength=len(values) + 1))[: len(values)]
        equal = self.points[np.minimum(index, len(self.points) - 1)] == values
        return index, equal

    def _count(self, index: IntArray) -> FloatArray:
        return np.concatenate(([0.0], self.at_most))[index]


class QuantileSummary:
    """Collects values; `distribution` tells their ranks.

    Exact up to ``exact_values``; beyond, after Manku, Rajagopalan and Lindsay (1998): sorted buffers of
    ``buffer_values``; two of one level become one of the next by keeping every other value. No random
    choice is made, so equal rows give equal answers. The rank error is at most about
    log2(n / buffer_values) / (2 buffer_values) of n: 0.05 % at a million with the default; the 512 lowest
    and highest values are exact. The result depends on the order of the values, not on how they were
    split into batches.
    """

    def __init__(self, buffer_values: int = 8_192, exact_values: int = EXACT_VALUES) -> None:
        self.n = 0
        self._exact_values = exact_values
        self._buffer_values = buffer_values
        self._exact: list[FloatArray] | None = []
        self._pending: FloatArray = np.empty(0)
        self._n_collapses = 0
        self._levels: dict[int, FloatArray] = {}
        self._low: FloatArray = np.empty(0)
        self._high: FloatArray = np.empty(0)

    def update(self, values: FloatArray) -> None:
        """Add values, (n,), none missing."""
        if len(values) == 0:
            return
        self.n += len(values)
        if self._exact is not None:
            self._exact.append(np.array(values, dtype=np.float64))
            if self.n > self._exact_values:
                self._leave_exactness()
            return
        self._push(values)

    def merge(self, other: QuantileSummary) -> None:
        """Add all that ``other`` has seen."""
        if other._exact is not None:
            for part in other._exact:
                self.update(part)
            return
        if self._exact is not None:
            self._leave_exactness()
        self.n += other.n
        self._keep_tails(other._low)
        self._keep_tails(other._high)
        for level, buffer in other._levels.items():
            self._carry(buffer, level)
        self._fill(other._pending)

    def distribution(self) -> Distribution:
        """The ranks of what was seen so far. Raises ValueError when nothing was."""
        if self.n == 0:
            raise ValueError("no values")
        if self._exact is not None:
            return _counted(np.concatenate(self._exact))
        low, high = np.sort(self._low), np.sort(self._high)
        middle, at_most = self._ranked()
        inside = middle[(middle >= low[-1]) & (middle <= high[0])]
        points = np.unique(np.concatenate((low, _thinned(inside), high)))
        counts = at_most[np.searchsorted(middle, points, side="right")]
        # Between the tails the sketch counts; in them, the values themselves.
        counts = np.clip(counts, len(low), self.n - len(high))
        in_low, in_high = points < low[-1], points >= high[0]
        counts[in_low] = np.searchsorted(low, points[in_low], side="right")
        counts[in_high] = self.n - len(high) + np.searchsorted(high, points[in_high], side="right")
        return Distribution(n=self.n, points=points, at_most=np.maximum.accumulate(counts))

    def _leave_exactness(self) -> None:
        parts, self._exact = self._exact or [], None
        for part in parts:
            self._push(part)

    def _push(self, values: FloatArray) -> None:
        self._keep_tails(values)
        self._fill(values)

    def _fill(self, values: FloatArray) -> None:
        size = self._buffer_values
        rest = np.concatenate((self._pending, values))
        while len(rest) >= size:
            self._carry(np.sort(rest[:size]), 0)
            rest = rest[size:]
        self._pending = rest.copy()

    def _carry(self, buffer: FloatArray, level: int) -> None:
        while (waiting := self._levels.pop(level, None)) is not None:
            both = np.sort(np.concatenate((waiting, buffer)), kind="stable")
            # Alternating the parity cancels the bias that always keeping the lower value would have.
            buffer = both[self._n_collapses % 2 :: 2].copy()
            self._n_collapses += 1
            level += 1
        self._levels[level] = buffer

    def _keep_tails(self, values: FloatArray) -> None:
        if len(self._low) == TAIL_VALUES:
            # Most batches hold few new extremes; looking at those alone saves the partition.
            low = values[values < self._low.max()]
            high = values[values > self._high.min()]
        else:
            low = high = values
        if len(low):
            self._low = _lowest(np.concatenate((self._low, low)))
        if len(high):
            self._high = -_lowest(-np.concatenate((self._high, high)))

    def _ranked(self) -> tuple[FloatArray, FloatArray]:
        """All points, ascending, (m,), and the weight up to before each and after the last, (m + 1,)."""
        parts = [self._pending, *self._levels.values()]
        weights = [np.ones(len(self._pending))]
        weights += [np.full(len(buffer), 2.0**level) for level, buffer in self._levels.items()]
        points = np.concatenate(parts)
        order = np.argsort(points, kind="stable")
        return points[order], np.concatenate(([0.0], np.cumsum(np.concatenate(weights)[order])))


def _lowest(values: FloatArray) -> FloatArray:
    if len(values) <= TAIL_VALUES:
        return values
    return np.partition(values, TAIL_VALUES - 1)[:TAIL_VALUES]


def _thinned(ordered: FloatArray) -> FloatArray:
    if len(ordered) <= MIDDLE_POINTS:
        return ordered
    return ordered[np.linspace(0, len(ordered) - 1, MIDDLE_POINTS).astype(np.intp)]


def _counted(values: FloatArray) -> Distribution:
    points, counts = np.unique(values, return_counts=True)
    return Distribution(n=len(values), points=points, at_most=np.cumsum(counts).astype(np.float64))
