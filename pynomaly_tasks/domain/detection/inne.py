"""Isolation by nearest-neighbour spheres."""

from __future__ import annotations

import numpy as np

from pynomaly_tasks.domain.detection.detector import FloatArray, Tick
from pynomaly_tasks.domain.detection.scaling import Scaler
from pynomaly_tasks.domain.detection.tabular_params import InneParams
from pynomaly_tasks.errors import InvalidRequest

_TINY = 1e-300


class InneDetector:
    """Bandaragoda et al. (2018): mean over sets of 1 - radius of the next centre / radius of the nearest.

    Each set draws ``max_samples`` rows as centres of spheres that reach to the nearest other centre; a row
    is judged by the smallest sphere that covers it and scores 1 in a set where none does. 0 to 1.
    """

    score_rows = 2_000
    sample_rows = 50_000  #: centres are drawn from a seeded sample of so many rows

    def __init__(self, params: InneParams, seed: int) -> None:
        self._params = params
        self._seed = seed

    def fit_rows(self, n_rows: int) -> int | None:
        """The sample that centres are drawn from."""
        return min(n_rows, self.sample_rows)

    def fit(self, x: FloatArray, tick: Tick) -> None:
        """Draw the spheres."""
        from scipy.spatial.distance import cdist

        n_spheres = self._params.max_samples
        if n_spheres > len(x):
            raise InvalidRequest.of(
                "detector.params.max_samples",
                f"{n_spheres} spheres in a set need at least as many rows, not {len(x)}",
            )
        tick()
        self._scaler = Scaler.fitted(x, self._params.scaling)
        scaled = self._scaler.apply(x)
        rng = np.random.default_rng(self._seed)
        centres, radii, ratios = [], [], []
        for _ in range(self._params.n_estimators):
            centre = scaled[rng.choice(len(scaled), n_spheres, replace=False)]
            apart = cdist(centre, centre, "sqeuclidean")
            np.fill_diagonal(apart, np.inf)
            radius = apart.min(axis=1)
            ratio = 1.0 - (radius[apart.argmin(axis=1)] + _TINY) / (radius + _TINY)
            # Ascending radii: the first sphere that covers a row is the smallest.
            order = np.argsort(radius, kind="stable")
            centres.append(centre[order])
            radii.append(radius[order])
            ratios.append(ratio[order])
        self._centres = np.concatenate(centres)
        self._radii = np.array(radii)
        self._ratios = np.array(ratios)

    def score(self, x: FloatArray) -> FloatArray:
        """0 to 1."""
        from scipy.spatial.distance import cdist

        # cdist works difference by difference, so a centre's own radius covers its neighbour exactly,
        # in any batch; a product of matrices would decide such borders by rounding.
        apart = cdist(self._scaler.apply(x), self._centres, "sqeuclidean")
        covers = apart.reshape(len(x), *self._radii.shape) <= self._radii
        first = covers.argmax(axis=2)
        ratio = self._ratios[np.arange(len(self._ratios)), first]
        return np.asarray(np.where(covers.any(axis=2), ratio, 1.0).mean(axis=1), dtype=np.float64)

    def contributions(self, x: FloatArray) -> FloatArray | None:
        """None: the nearest spheres change with the columns."""
        del x
        return None
