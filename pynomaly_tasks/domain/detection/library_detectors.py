"""scikit-learn's robust covariance and one-class support vector machine."""

from __future__ import annotations

import warnings as python_warnings
from typing import Any

import numpy as np

from pynomaly_tasks.domain.detection.detector import FloatArray, Tick
from pynomaly_tasks.domain.detection.scaling import Scaler
from pynomaly_tasks.domain.detection.tabular_params import McdParams, OneClassSvmParams
from pynomaly_tasks.errors import InvalidDataset


class McdDetector:
    """Rousseeuw and Van Driessen (1999): squared distance under the covariance of the tightest half.

    Fitted by scikit-learn's MinCovDet on a seeded sample.
    """

    score_rows = 50_000

    def __init__(self, params: McdParams, seed: int) -> None:
        self._params = params
        self._seed = seed
        self.warnings: tuple[str, ...] = ()  #: what the fit had to say
        self._model: Any = None

    def fit_rows(self, n_rows: int) -> int | None:
        """The sample."""
        return min(n_rows, self._params.sample_rows)

    def fit(self, x: FloatArray, tick: Tick) -> None:
        """Find the tightest half. Raises InvalidDataset with fewer than two rows a column."""
        from sklearn.covariance import MinCovDet

        n_rows, n_columns = x.shape
        if n_rows < 2 * n_columns:
            raise InvalidDataset.of(
                "dataset",
                f"mcd needs two rows for each column: {2 * n_columns} rows, not {n_rows}; choose ecod",
            )
        tick()
        with python_warnings.catch_warnings(record=True) as caught:
            python_warnings.simplefilter("always")
            self._model = MinCovDet(
                support_fraction=self._params.support_fraction, random_state=self._seed
            ).fit(x)
        # Repetitions differ in their figures alone: the first of each says enough.
        texts = {str(item.message).split(":")[0].strip(): None for item in caught}
        self.warnings = tuple(f"mcd: {text}" for text in texts)

    def score(self, x: FloatArray) -> FloatArray:
        """Squared distance, 0 or more."""
        return np.asarray(self._model.mahalanobis(x), dtype=np.float64)

    def contributions(self, x: FloatArray) -> FloatArray:
        """z_j (P z)_j of each column, z the row from the robust centre and P the robust precision."""
        z = x - self._model.location_
        return np.asarray(z * (z @ self._model.get_precision()), dtype=np.float64)


class OneClassSvmDetector:
    """Schölkopf et al. (2001), by scikit-learn: how far outside the boundary, inside being below 0."""

    score_rows = 2_000

    def __init__(self, params: OneClassSvmParams) -> None:
        self._params = params
        self._model: Any = None

    def fit_rows(self, n_rows: int) -> int | None:
        """All rows; the catalogue's limit holds."""
        return n_rows

    def fit(self, x: FloatArray, tick: Tick) -> None:
        """Find the boundary."""
        from sklearn.svm import OneClassSVM

        tick()
        self._scaler = Scaler.fitted(x, self._params.scaling)
        params = self._params
        self._model = OneClassSVM(kernel=params.kernel, nu=params.nu, gamma=params.gamma)
        self._model.fit(self._scaler.apply(x))

    def score(self, x: FloatArray) -> FloatArray:
        """Distance beyond the boundary, in the kernel's space."""
        return -np.asarray(self._model.decision_function(self._scaler.apply(x)), dtype=np.float64)

    def contributions(self, x: FloatArray) -> FloatArray | None:
        """None: the boundary does not add up by column."""
        del x
        return None
