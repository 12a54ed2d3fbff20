"""Few enough points to draw, with the anomalies among them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pynomaly_tasks.domain.detection.detector import FloatArray

MAX_POINTS = 2_000
#: Anomalies that are always drawn, the highest first; the rest of the points tell the background.
MAX_ANOMALIES = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotRows:
    """The rows to draw, ascending."""

    row: NDArray[np.int64]
    n_anomalies_left_out: int


def thin(score: FloatArray, anomaly: NDArray[np.bool_], values: FloatArray | None = None) -> PlotRows:
    """Choose at most 2,000 of n rows: the anomalies, and of each stretch of the others the extremes.

    score, anomaly, values: (n,). With values, the lowest and the highest value of each stretch are kept;
    without, the highest score.
    """
    n = len(score)
    if n <= MAX_POINTS:
        return PlotRows(row=np.arange(n, dtype=np.int64), n_anomalies_left_out=0)
    flagged = np.flatnonzero(anomaly)
    left_out = max(0, len(flagged) - MAX_ANOMALIES)
    if left_out:
        flagged = flagged[np.argsort(-score[flagged], kind="stable")[:MAX_ANOMALIES]]
    per_stretch = 1 if values is None else 2
    n_stretches = (MAX_POINTS - len(flagged)) // per_stretch
    edges = np.linspace(0, n, n_stretches + 1).astype(np.int64)
    kept = [flagged.astype(np.int64)]
    for start, end in pairwise(edges.tolist()):
        if values is None:
            kept.append(np.array([start + int(np.argmax(score[start:end]))]))
            continue
        part = values[start:end]
        if np.isnan(part).all():
            kept.append(np.array([start]))
        else:
            kept.append(np.array([start + int(np.nanargmin(part)), start + int(np.nanargmax(part))]))
    return PlotRows(row=np.unique(np.concatenate(kept)), n_anomalies_left_out=left_out)
