"""Histograms and correlations of the number columns, in one pass of numpy over Arrow batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts of finite values between edges of equal distance; the last bin holds its upper edge too."""

    edges: FloatArray  #: (n_bins + 1,)
    counts: IntArray  #: (n_bins,)


class Histograms:
    """Adds up histograms over batches.

    bounds: finite (minimum, maximum) of each column; None: no histogram.
    """

    def __init__(self, bounds: Sequence[tuple[float, float] | None], n_bins: int) -> None:
        self._edges = [None if pair is None else _edges(*pair, n_bins) for pair in bounds]
        self._counts = [np.zeros(n_bins, np.int64) for _ in bounds]

    def add(self, rows: FloatArray) -> None:
        """rows: (n, n_columns), missing values NaN."""
        for at, edges in enumerate(self._edges):
            if edges is not None:
                values = rows[:, at]
                counts, _ = np.histogram(
                    values[np.isfinite(values)], bins=len(edges) - 1, range=(edges[0], edges[-1])
                )
                self._counts[at] += counts

    def results(self) -> list[Histogram | None]:
        """One histogram a column."""
        return [
            None if edges is None else Histogram(edges=edges, counts=counts)
            for edges, counts in zip(self._edges, self._counts, strict=True)
        ]


def _edges(minimum: float, maximum: float, n_bins: int) -> FloatArray | None:
    if minimum == maximum:
        minimum, maximum = minimum - 0.5, maximum + 0.5
    # Past 2^53 the half is lost, and the width of the widest range is infinite: no histogram then.
    if not np.isfinite(maximum - minimum) or minimum >= maximum:
        return None
    edges = np.linspace(minimum, maximum, n_bins + 1)
    return edges if bool(np.all(np.diff(edges) > 0)) else None


class Correlations:
    """Adds up what Pearson's correlation of each pair of columns needs, over the rows that have both.

    centers, scales: (n,) rough mean and spread of each column; with values near 0 and 1 in size the
    sums of squares lose no digits.
    """

    def __init__(self, centers: FloatArray, scales: FloatArray) -> None:
        n = len(centers)
        self._centers = centers
        self._scales = np.where((scales > 0) & np.isfinite(scales), scales, 1.0)
        self._n, self._x, self._xx, self._xy = (np.zeros((n, n)) for _ in range(4))

    def add(self, rows: FloatArray) -> None:
        """rows: (n, n_columns), missing values NaN."""
        present = np.isfinite(rows)
        values = np.where(present, (rows - self._centers) / self._scales, 0.0)
        mask = present.astype(np.float64)
        self._n += mask.T @ mask
        self._x += values.T @ mask
        self._xx += (values * values).T @ mask
        self._xy += values.T @ values

    def results(self) -> list[list[float | None]]:
        """(n, n), None where a column of the pair is constant, or under three rows have both."""
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = self._xx - self._x**2 / self._n
            shared = self._xy - self._x * self._x.T / self._n
            # Rounding leaves a constant column with a spread of about 1e-16 of its sum of squares.
            spread = np.where(spread > 1e-12 * np.maximum(self._xx, 1e-300), spread, np.nan)
            matrix = np.clip(shared / np.sqrt(spread * spread.T), -1.0, 1.0)
        matrix[self._n < 3] = np.nan
        return [[float(value) if np.isfinite(value) else None for value in row] for row in matrix]


def number_rows(batches: Iterator[Any], n_columns: int) -> Iterator[FloatArray]:
    """Each Arrow batch of number columns as (n, n_columns), missing values NaN."""
    for batch in batches:
        rows = np.empty((batch.num_rows, n_columns), np.float64, order="F")
        for at, column in enumerate(batch.columns):
            rows[:, at] = column.to_numpy(zero_copy_only=False)
        yield rows
