"""What every detector for tables can do, whichever way it works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]
Tick: TypeAlias = Callable[[], None]  #: called between steps of long work; may raise to stop it


class Detector(Protocol):
    """Learns what is usual from some rows, then scores any row; a larger score is more anomalous.

    A row's score depends on the row and on what was fitted, never on the rows scored with it.
    """

    #: Rows scored in one step; between two steps the job can be cancelled.
    score_rows: int

    def fit_rows(self, n_rows: int) -> int | None:
        """Rows of a file of ``n_rows`` that it is fitted on: a seeded sample, or None for all, streamed."""

    def fit(self, x: FloatArray, tick: Tick) -> None:
        """Learn from x, (n, d). Raises InvalidRequest when the parameters do not suit n and d."""

    def score(self, x: FloatArray) -> FloatArray:
        """Scores of x, (n, d). Returns (n,), finite."""

    def contributions(self, x: FloatArray) -> FloatArray | None:
        """What each column adds to the scores of x, (n, d), summing to the score; None when it cannot say."""


class StreamedDetector(Detector, Protocol):
    """A detector that learns from batches, and whose parts can be learnt apart and merged."""

    def update(self, x: FloatArray) -> None:
        """Learn from one more batch, (n, d)."""

    def merge(self, other: Self) -> None:
        """Learn what ``other`` has learnt from other rows of the same columns."""
