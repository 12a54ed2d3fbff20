"""Distances to the nearest rows: knn and lof."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pynomaly_tasks.domain.detection.detector import FloatArray, Tick
from pynomaly_tasks.domain.detection.scaling import Scaler
from pynomaly_tasks.domain.detection.tabular_params import EXACT_ROWS, KnnParams, LofParams
from pynomaly_tasks.errors import InvalidRequest

#: Up to this many columns a tree finds the neighbours, with exact distances; beyond, comparing all rows.
_TREE_COLUMNS = 15
#: Candidates asked for beyond those needed when all rows are compared: those distances come rounded from a
#: product of matrices, so ours decide.
_SPARE = 5
_QUERY_ROWS = 2_000


class NeighbourIndex:
    """The nearest of some reference rows, by Euclidean distance.

    A row that equals a reference row is taken to be that row and does not count as its own neighbour, so
    the rows fitted on get the scores that fitting gives them, and a row's score needs nothing but the row.
    Distances are those of differences, column by column: they do not depend on the batch.
    """

    def __init__(self, reference: FloatArray, n_neighbors: int) -> None:
        if n_neighbors >= len(reference):
            raise InvalidRequest.of(
                "detector.params.n_neighbors",
                f"{n_neighbors} neighbours need more rows than the {len(reference)} there are to compare "
                f"with; at most {len(reference) - 1}",
            )
        from sklearn.neighbors import NearestNeighbors

        self._reference = reference
        self._n_neighbors = n_neighbors
        self._by_tree = reference.shape[1] <= _TREE_COLUMNS
        self._n_asked = min(len(reference), n_neighbors + 1 + (0 if self._by_tree else _SPARE))
        self._index: Any = NearestNeighbors(algorithm="kd_tree" if self._by_tree else "brute", n_jobs=1).fit(
            reference
        )

    def nearest(self, x: FloatArray) -> tuple[FloatArray, NDArray[np.intp]]:
        """Distances and positions of the nearest reference rows, (n, n_neighbors), nearest first."""
        distance, position = self._index.kneighbors(x, self._n_asked)
        if not self._by_tree:
            difference = self._reference[position] - x[:, None, :]
            distance = np.sqrt(np.einsum("ijk,ijk->ij", difference, difference))
            # Of equal distances the earlier reference row.
            order = np.lexsort((position, distance), axis=-1)
            distance = np.take_along_axis(distance, order, axis=1)
            position = np.take_along_axis(position, order, axis=1)
        is_itself = (distance[:, 0] == 0.0).astype(np.intp)
        kept = is_itself[:, None] + np.arange(self._n_neighbors)
        return np.take_along_axis(distance, kept, axis=1), np.take_along_axis(position, kept, axis=1)


class KnnDetector:
    """Ramaswamy et al. (2000): distance to the k-th nearest row, or the mean or median of the k distances.

    Up to 50,000 rows every row is a reference; of longer files a seeded sample of ``reference_rows`` is.
    """

    score_rows = _QUERY_ROWS

    def __init__(self, params: KnnParams) -> None:
        self._params = params

    def fit_rows(self, n_rows: int) -> int | None:
        """All, or the reference sample."""
        return n_rows if n_rows <= EXACT_ROWS else self._params.reference_rows

    def fit(self, x: FloatArray, tick: Tick) -> None:
        """Keep x as the reference."""
        tick()
        self._scaler = Scaler.fitted(x, self._params.scaling)
        self._index = NeighbourIndex(self._scaler.apply(x), self._params.n_neighbors)

    def score(self, x: FloatArray) -> FloatArray:
        """In standard deviations, or in the file's unit."""
        distance, _ = self._index.nearest(self._scaler.apply(x))
        if self._params.method == "largest":
            return np.ascontiguousarray(distance[:, -1])
        if self._params.method == "mean":
            return np.asarray(distance.mean(axis=1), dtype=np.float64)
        return np.asarray(np.median(distance, axis=1), dtype=np.float64)

    def contributions(self, x: FloatArray) -> FloatArray | None:
        """None: the nearest rows change with the columns."""
        del x
        return None


class LofDetector:
    """Breunig et al. (2000): mean density of a row's neighbours over its own; about 1 is unremarkable.

    Up to 50,000 rows every row is a reference; of longer files a seeded sample of ``reference_rows`` is.
    """

    score_rows = _QUERY_ROWS

    def __init__(self, params: LofParams) -> None:
        self._params = params
        self.warnings: tuple[str, ...] = ()  #: what the fit had to say

    def fit_rows(self, n_rows: int) -> int | None:
        """All, or the reference sample."""
        return n_rows if n_rows <= EXACT_ROWS else self._params.reference_rows

    def fit(self, x: FloatArray, tick: Tick) -> None:
        """Keep x as the reference, with the density at each of its rows."""
        self._scaler = Scaler.fitted(x, self._params.scaling)
        reference = self._scaler.apply(x)
        self._index = NeighbourIndex(reference, self._params.n_neighbors)
        nearest = []
        for start in range(0, len(reference), _QUERY_ROWS):
            tick()
            nearest.append(self._index.nearest(reference[start : start + _QUERY_ROWS]))
        distance = np.concatenate([part[0] for part in nearest])
        position = np.concatenate([part[1] for part in nearest])
        self._reach = distance[:, -1]
        self._density = self._density_at(distance, position)
        n_crowded = int(np.count_nonzero(self._reach == 0.0))
        if n_crowded:
            self.warnings = (
                f"lof: {n_crowded:,} rows have {self._params.n_neighbors} or more duplicates, beside which "
                "anything is an anomaly; raise n_neighbors or choose knn",
            )

    def score(self, x: FloatArray) -> FloatArray:
        """The local outlier factor, over 0."""
        distance, position = self._index.nearest(self._scaler.apply(x))
        own = self._density_at(distance, position)
        return np.asarray((self._density[position] / own[:, None]).mean(axis=1), dtype=np.float64)

    def contributions(self, x: FloatArray) -> FloatArray | None:
        """None: the nearest rows change with the columns."""
        del x
        return None

    def _density_at(self, distance: FloatArray, position: NDArray[np.intp]) -> FloatArray:
        reachability = np.maximum(distance, self._reach[position])
        # 1e-10, as scikit-learn has it, keeps the density of duplicates finite.
        return np.asarray(1.0 / (reachability.mean(axis=1) + 1e-10), dtype=np.float64)
