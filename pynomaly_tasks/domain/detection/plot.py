"""Few enough points to draw, with the anomalies among them."""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pynomaly_tasks.domain.detection.detector import FloatArray

MAX_POINTS = 2_000
#: Anomalies that are always drawn, the highest first; the rest of the points tell the background.
MAX_ANOMALIES = 1_000


class Scores(Protocol):
    """The scores of n rows, wherever they are."""

    n_rows: int

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        """Rows ``start`` to before ``stop``."""


def thin(scores: Scores, flagged: NDArray[np.int64], values: FloatArray | None = None) -> NDArray[np.int64]:
    """Choose at most 2,000 of n rows, ascending: those ``flagged``, and of each stretch the extremes.

    flagged: at most 1,000 rows. values: (n,); with it the lowest and the highest value of each stretch are
    chosen, without it the highest score.
    """
    n = scores.n_rows
    if n <= MAX_POINTS:
        return np.arange(n, dtype=np.int64)
    n_stretches = (MAX_POINTS - len(flagged)) // (1 if values is None else 2)
    edges = np.linspace(0, n, n_stretches + 1).astype(np.int64)
    chosen: list[int] = []
    for start, end in pairwise(edges.tolist()):
        if values is None:
            chosen.append(start + int(np.argmax(scores.read(start, end))))
            continue
        part = values[start:end]
        if np.isnan(part).all():
            chosen.append(start)
        else:
            chosen += (start + int(np.nanargmin(part)), start + int(np.nanargmax(part)))
    return np.unique(np.concatenate((flagged, np.array(chosen, dtype=np.int64))))
