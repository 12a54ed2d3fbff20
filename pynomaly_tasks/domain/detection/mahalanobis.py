"""Distance from the mean, correlations allowed for."""

from __future__ import annotations

import numpy as np

from pynomaly_tasks.domain.detection.detector import FloatArray, Tick
from pynomaly_tasks.domain.detection.moments import Moments
from pynomaly_tasks.domain.detection.tabular_params import MahalanobisParams


class MahalanobisDetector:
    """Squared Mahalanobis distance z' R+ z, z the standardised row and R the correlation matrix.

    Directions with less than ``rank_tolerance`` of the largest variance are left out of the inverse R+:
    columns that repeat others add nothing instead of infinity. The contribution of column j is
    z_j (R+ z)_j: they sum to the score; one below 0 belongs to a value that fits the others of its row.
    """

    score_rows = 50_000

    def __init__(self, params: MahalanobisParams) -> None:
        self._params = params
        self._moments: Moments | None = None
        self._whitening: FloatArray | None = None
        self._scale: FloatArray = np.empty(0)

    def fit_rows(self, n_rows: int) -> int | None:
        """All rows, streamed."""
        del n_rows
        return None

    def fit(self, x: FloatArray, tick: Tick) -> None:
        """Learn from x alone."""
        tick()
        self._moments = None
        self.update(x)

    def update(self, x: FloatArray) -> None:
        """Learn from one more batch; no value missing."""
        if self._moments is None:
            self._moments = Moments(x.shape[1])
        self._moments.update(x)
        self._whitening = None

    def merge(self, other: MahalanobisDetector) -> None:
        """Learn what ``other`` has learnt."""
        if other._moments is not None:
            if self._moments is None:
                self._moments = Moments(len(other._moments.mean))
            self._moments.merge(other._moments)
        self._whitening = None

    def score(self, x: FloatArray) -> FloatArray:
        """Squared distance, 0 or more."""
        whitening = self._fitted()
        white = self._standardised(x) @ whitening
        return np.asarray(np.einsum("ij,ij->i", white, white), dtype=np.float64)

    def contributions(self, x: FloatArray) -> FloatArray:
        """z_j (R+ z)_j of each column."""
        whitening = self._fitted()
        z = self._standardised(x)
        return z * ((z @ whitening) @ whitening.T)

    def _standardised(self, x: FloatArray) -> FloatArray:
        assert self._moments is not None, "fitted first"
        return (x - self._moments.mean) * self._scale

    def _fitted(self) -> FloatArray:
        if self._whitening is None:
            assert self._moments is not None, "fitted first"
            covariance = self._moments.covariance()
            deviation = np.sqrt(np.diag(covariance))
            # A deviation that is only rounding of the mean is none.
            constant = deviation <= 1e-12 * np.maximum(np.abs(self._moments.mean), 1e-300)
            self._scale = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, deviation))
            correlation = covariance * np.outer(self._scale, self._scale)
            values, vectors = np.linalg.eigh(correlation)
            kept = values > self._params.rank_tolerance * max(float(values[-1]), 1e-300)
            self._whitening = vectors[:, kept] / np.sqrt(values[kept])
        return self._whitening
