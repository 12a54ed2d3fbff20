"""How empty the histogram bins are that a row's values fall in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pynomaly_tasks.domain.detection.detector import FloatArray, Tick
from pynomaly_tasks.domain.detection.ecod import present, summaries_for
from pynomaly_tasks.domain.detection.moments import ColumnMoments
from pynomaly_tasks.domain.detection.quantiles import QuantileSummary
from pynomaly_tasks.domain.detection.tabular_params import HbosParams


@dataclass(frozen=True, slots=True, kw_only=True)
class _Histogram:
    edges: FloatArray  #: (bins + 1,)
    terms: FloatArray  #: (bins,), the contribution of a value in each bin, 0 or more
    outside: float  #: of a value beyond the tolerance
    edge_of: Literal["lower", "upper"]  #: bin in which a value on an inner edge is looked up

    def surprise(self, column: FloatArray, tolerance: float) -> FloatArray:
        values = np.ascontiguousarray(column)
        last = len(self.terms) - 1
        index = np.searchsorted(self.edges, values, side="left" if self.edge_of == "lower" else "right") - 1
        out = self.terms[np.clip(index, 0, last)]
        margin = tolerance * (self.edges[1] - self.edges[0])
        far = (values < self.edges[0] - margin) | (values > self.edges[-1] + margin)
        out[far] = self.outside
        out[np.isnan(values)] = 0.0
        return out


class HbosDetector:
    """Goldstein and Dengel (2012): the sum over columns of log2((densest + alpha) / (density + alpha)).

    The density is that of the value's bin, of ``n_bins`` equal ones from the column's lowest to its highest
    value. The ranking is that of -log2(density + alpha); taking the densest bin as zero makes every term
    0 or more, so that it is the column's contribution. A missing value adds 0; a value beyond the histogram
    counts as density 0.

    Scaling none ranks as PyOD's HBOS does: densities per unit, so that alpha weighs more in a column of
    large numbers, and a value on an inner edge is counted in the bin above and looked up in the one below.
    Scaling standard takes densities per standard deviation and looks up where it counted: the ranking is
    then the same in any unit.
    """

    score_rows = 50_000

    def __init__(self, params: HbosParams) -> None:
        self._params = params
        self._summaries: list[QuantileSummary] = []
        self._moments: list[ColumnMoments] = []
        self._histograms: list[_Histogram | None] | None = None

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
        n_columns = x.shape[1]
        if not self._summaries:
            self._summaries = summaries_for(n_columns)
            self._moments = [ColumnMoments() for _ in range(n_columns)]
        for summary, moments, column in zip(self._summaries, self._moments, x.T, strict=True):
            values = present(column)
            summary.update(values)
            moments.update(values)
        self._histograms = None

    def merge(self, other: HbosDetector) -> None:
        """Learn what ``other`` has learnt."""
        for mine, theirs in zip(self._summaries, other._summaries, strict=True):
            mine.merge(theirs)
        for moments, more in zip(self._moments, other._moments, strict=True):
            moments.merge(more)
        self._histograms = None

    def score(self, x: FloatArray) -> FloatArray:
        """Sum of the columns' terms, 0 or more."""
        total = np.zeros(len(x))
        for histogram, column in zip(self._fitted(), x.T, strict=True):
            if histogram is not None:
                total += histogram.surprise(column, self._params.tolerance)
        return total

    def contributions(self, x: FloatArray) -> FloatArray:
        """The columns' terms."""
        out = np.zeros(x.shape)
        for j, histogram in enumerate(self._fitted()):
            if histogram is not None:
                out[:, j] = histogram.surprise(x[:, j], self._params.tolerance)
        return out

    def _fitted(self) -> list[_Histogram | None]:
        if self._histograms is None:
            pairs = zip(self._summaries, self._moments, strict=True)
            self._histograms = [self._histogram(s, m) if s.n else None for s, m in pairs]
        return self._histograms

    def _histogram(self, summary: QuantileSummary, moments: ColumnMoments) -> _Histogram:
        distribution = summary.distribution()
        low, high = float(distribution.points[0]), float(distribution.points[-1])
        if low == high:
            low, high = low - 0.5, high + 0.5
        edges = np.linspace(low, high, self._params.n_bins + 1)
        counts = np.diff(distribution.n_below(edges[:-1]), append=float(distribution.n))
        unit = moments.deviation() if self._params.scaling == "standard" else 1.0
        density = counts / distribution.n / np.diff(edges) * (unit or 1.0)
        alpha = self._params.alpha
        return _Histogram(
            edges=edges,
            terms=np.log2((density.max() + alpha) / (density + alpha)),
            outside=float(np.log2((density.max() + alpha) / alpha)),
            edge_of="lower" if self._params.scaling == "none" else "upper",
        )
