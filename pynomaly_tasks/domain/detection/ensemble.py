"""Several detectors' ranks as one score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pynomaly_tasks.domain.detection.detector import Detector, FloatArray, Tick

#: The ensemble is fitted, and ranks are taken, on at most this many rows.
REFERENCE_ROWS = 50_000


class EnsembleDetector:
    """Mean, or largest, of the members' ranks, 0 to 1.

    A member's rank of a row is the share of reference rows (the file, or a seeded sample of 50,000) that
    score lower, equal ones counting half; it needs nothing but the row. Past the highest reference score
    the rank still rises, towards 1. Missing values are filled for every member alike.
    """

    def __init__(self, members: Sequence[Detector], combine: Literal["mean", "max"], seed: int) -> None:
        self._members = members
        self._combine = combine
        self._seed = seed
        self._n_rows: int | None = None
        self._references: list[FloatArray] = []
        self.score_rows = min(member.score_rows for member in members)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the members' fits had to say."""
        return tuple(text for member in self._members for text in getattr(member, "warnings", ()))

    def fit_rows(self, n_rows: int) -> int | None:
        """The reference rows."""
        self._n_rows = n_rows
        return min(n_rows, REFERENCE_ROWS)

    def fit(self, x: FloatArray, tick: Tick) -> None:
        """Fit every member on the rows it asks for, of x."""
        self._references = []
        for member in self._members:
            n_rows = member.fit_rows(self._n_rows or len(x))
            member.fit(self._subset(x, n_rows), tick)
            self._references.append(np.sort(self._scored(member, x, tick)))

    def score(self, x: FloatArray) -> FloatArray:
        """0 to 1."""
        ranks = np.array(
            [_rank(ref, m.score(x)) for ref, m in zip(self._references, self._members, strict=True)]
        )
        combined = ranks.mean(axis=0) if self._combine == "mean" else ranks.max(axis=0)
        return np.asarray(combined, dtype=np.float64)

    def contributions(self, x: FloatArray) -> FloatArray | None:
        """None: ranks do not add up by column."""
        del x
        return None

    def _subset(self, x: FloatArray, n_rows: int | None) -> FloatArray:
        if n_rows is None or n_rows >= len(x):
            return x
        chosen = np.random.default_rng(self._seed).choice(len(x), n_rows, replace=False)
        return x[np.sort(chosen)]

    def _scored(self, member: Detector, x: FloatArray, tick: Tick) -> FloatArray:
        out = np.empty(len(x))
        for start in range(0, len(x), member.score_rows):
            tick()
            out[start : start + member.score_rows] = member.score(x[start : start + member.score_rows])
        return out


def _rank(reference: FloatArray, score: FloatArray) -> FloatArray:
    n = len(reference)
    below = np.searchsorted(reference, score, side="left")
    at_most = np.searchsorted(reference, score, side="right")
    rank = (below + at_most) / (2.0 * n)
    top = reference[-1]
    beyond = score > top
    if beyond.any():
        spread = max(float(top - reference[n // 2]), 1e-300)
        # The highest reference row has rank 1 - 1 / 2n; the rest of the way to 1 is for what lies beyond.
        excess = (score[beyond] - top) / spread
        rank[beyond] = 1.0 - 0.5 / n / (1.0 + excess)
    return np.asarray(rank, dtype=np.float64)
