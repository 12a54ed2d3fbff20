"""Mean and covariance of rows that come in batches, mergeable."""

from __future__ import annotations

import numpy as np

from pynomaly_tasks.domain.detection.detector import FloatArray


class Moments:
    """Count, mean and centred sums of products of d columns, after Chan, Golub and LeVeque (1983).

    Combining batches this way loses no digits to large means. Values must not be missing.
    """

    def __init__(self, n_columns: int) -> None:
        self.n = 0
        self.mean: FloatArray = np.zeros(n_columns)
        self.products: FloatArray = np.zeros((n_columns, n_columns))

    def update(self, x: FloatArray) -> None:
        """Add rows, (n, d)."""
        if len(x) == 0:
            return
        mean = x.mean(axis=0)
        centred = x - mean
        self._combine(len(x), mean, centred.T @ centred)

    def merge(self, other: Moments) -> None:
        """Add the rows that ``other`` has seen."""
        self._combine(other.n, other.mean, other.products)

    def covariance(self) -> FloatArray:
        """(d, d), over n."""
        return self.products / max(self.n, 1)

    def _combine(self, n: int, mean: FloatArray, products: FloatArray) -> None:
        if n == 0:
            return
        total = self.n + n
        step = mean - self.mean
        self.products = self.products + products + np.outer(step, step) * (self.n * n / total)
        self.mean = self.mean + step * (n / total)
        self.n = total


class ColumnMoments:
    """Count, mean and centred sum of squares of one column, mergeable."""

    def __init__(self) -> None:
        self.n = 0
        self.mean = 0.0
        self.squares = 0.0

    def update(self, values: FloatArray) -> None:
        """Add values, (n,), none missing."""
        if len(values):
            mean = float(values.mean())
            self._combine(len(values), mean, float(((values - mean) ** 2).sum()))

    def merge(self, other: ColumnMoments) -> None:
        """Add the values that ``other`` has seen."""
        if other.n:
            self._combine(other.n, other.mean, other.squares)

    def deviation(self) -> float:
        """Over n; 0 for none."""
        return float(np.sqrt(self.squares / self.n)) if self.n else 0.0

    def _combine(self, n: int, mean: float, squares: float) -> None:
        total = self.n + n
        step = mean - self.mean
        self.squares += squares + step * step * self.n * n / total
        self.mean += step * n / total
        self.n = total
