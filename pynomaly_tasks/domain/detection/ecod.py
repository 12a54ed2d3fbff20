"""How far out in the tails of each column a row lies."""

from __future__ import annotations

import numpy as np

from pynomaly_tasks.domain.detection.detector import FloatArray, Tick
from pynomaly_tasks.domain.detection.quantiles import EXACT_VALUES, Distribution, QuantileSummary


class EcodDetector:
    """Li et al. (2022): the sum over columns of -ln of the smaller tail probability.

    P(X <= x) and P(X >= x) are empirical, at least 1 / (n + 1). A missing value adds 0. A column's term
    is its contribution; exact up to 50,000 rows (of wide files,
    25 million cells), within 0.1 % in rank beyond.
    """

    score_rows = 50_000

    def __init__(self) -> None:
        self._summaries: list[QuantileSummary] = []
        self._tails: list[_Tails | None] | None = None

    def fit_rows(self, n_rows: int) -> int | None:
        """All rows, streamed."""
        del n_rows
        return None

    def fit(self, x: FloatArray, tick: Tick) -> None:
        """Learn from x alone."""
        tick()
        self._summaries = []
        self.update(x)

    def update(self, x: FloatArray) -> None:
        """Learn from one more batch."""
        if not self._summaries:
            self._summaries = summaries_for(x.shape[1])
        for summary, column in zip(self._summaries, x.T, strict=True):
            summary.update(present(column))
        self._tails = None

    def merge(self, other: EcodDetector) -> None:
        """Learn what ``other`` has learnt."""
        for mine, theirs in zip(self._summaries, other._summaries, strict=True):
            mine.merge(theirs)
        self._tails = None

    def score(self, x: FloatArray) -> FloatArray:
        """Sum of the columns' terms, 0 or more."""
        total = np.zeros(len(x))
        for tails, column in zip(self._fitted(), x.T, strict=True):
            if tails is not None:
                total += tails.surprise(column)
        return total

    def contributions(self, x: FloatArray) -> FloatArray:
        """The columns' terms."""
        out = np.zeros(x.shape)
        for j, tails in enumerate(self._fitted()):
            if tails is not None:
                out[:, j] = tails.surprise(x[:, j])
        return out

    def _fitted(self) -> list[_Tails | None]:
        if self._tails is None:
            self._tails = [_Tails(s.distribution()) if s.n else None for s in self._summaries]
        return self._tails


def summaries_for(n_columns: int) -> list[QuantileSummary]:
    """One for each column; of wide files smaller ones, so that all together take some 200 MB at most."""
    buffer_values = max(512, min(8_192, 400_000 // n_columns))
    exact_values = max(2_000, min(EXACT_VALUES, 25_000_000 // n_columns))
    return [QuantileSummary(buffer_values, exact_values) for _ in range(n_columns)]


def present(column: FloatArray) -> FloatArray:
    """The values that are not missing, contiguous."""
    missing = np.isnan(column)
    return np.ascontiguousarray(column[~missing] if missing.any() else column)


class _Tails:
    """-ln of the smaller tail probability of any value of one column, from a table over its points."""

    def __init__(self, distribution: Distribution) -> None:
        n, at_most = distribution.n, distribution.at_most
        below = np.concatenate(([0.0], at_most))
        self._distribution = distribution
        self._at = self._term(at_most, n - below[:-1])
        self._between = self._term(below, n - below)

    def surprise(self, column: FloatArray) -> FloatArray:
        values = np.ascontiguousarray(column)
        index, equal = self._distribution.locate(values)
        last = len(self._at) - 1
        out = np.where(equal, self._at[np.minimum(index, last)], self._between[index])
        out[np.isnan(values)] = 0.0
        return np.asarray(out, dtype=np.float64)

    def _term(self, left: FloatArray, right: FloatArray) -> FloatArray:
        n = self._distribution.n
        share = np.maximum(np.minimum(left, right) / n, 1.0 / (n + 1))
        return np.asarray(-np.log(share), dtype=np.float64)
