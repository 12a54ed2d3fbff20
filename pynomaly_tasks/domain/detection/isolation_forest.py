"""scikit-learn's isolation forest, fitted on a seeded sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from pynomaly_tasks.domain.detection.detector import FloatArray, Tick
from pynomaly_tasks.domain.detection.tabular_params import IsolationForestParams


class IsolationForestDetector:
    """Liu, Ting and Zhou (2008): 2^(-mean path length / expected length), in 0 to 1; 0.5 is unremarkable.

    Missing values follow the branch that the trees learnt for them. Compares values as 32-bit floats.
    """

    score_rows = 50_000

    def __init__(self, params: IsolationForestParams, seed: int) -> None:
        self._params = params
        self._seed = seed
        self._forest: Any = None

    def fit_rows(self, n_rows: int) -> int | None:
        """The sample that the trees draw their rows from."""
        return min(n_rows, self._params.sample_rows)

    def fit(self, x: FloatArray, tick: Tick) -> None:
        """Grow the trees."""
        from sklearn.ensemble import IsolationForest

        tick()
        self._forest = IsolationForest(
            n_estimators=self._params.n_estimators,
            max_samples=min(self._params.max_samples, len(x)),
            max_features=self._params.max_features,
            random_state=self._seed,
            n_jobs=1,
        ).fit(x)

    def score(self, x: FloatArray) -> FloatArray:
        """Anomaly score of the paper, 0 to 1."""
        return -np.asarray(self._forest.score_samples(x), dtype=np.float64)

    def contributions(self, x: FloatArray) -> FloatArray | None:
        """None: the trees do not add up by column."""
        del x
        return None
