"""How well scores and labels agree with what is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pynomaly_tasks.domain.detection.detector import FloatArray

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Agreement of a detection with known anomalies. None where a figure is not defined."""

    labels: Literal["column", "windows"]
    n_labelled: int  #: rows whose truth is known
    n_positive: int  #: of them, anomalies
    precision: float | None
    recall: float | None
    f1: float | None
    auc_roc: float | None
    auc_pr: float | None  #: average precision
    n_windows: int | None = None
    windows_found: int | None = None  #: windows with at least one labelled row in them


def evaluate(
    labels: Literal["column", "windows"], truth: BoolArray, score: FloatArray, found: BoolArray
) -> Evaluation:
    """Compare rows whose truth is known: truth, score and found, each (n,)."""
    n_true, n_found = int(np.count_nonzero(truth)), int(np.count_nonzero(found))
    hits = int(np.count_nonzero(truth & found))
    precision = hits / n_found if n_found else None
    recall = hits / n_true if n_true else None
    both = (precision or 0.0) + (recall or 0.0)
    return Evaluation(
        labels=labels,
        n_labelled=len(truth),
        n_positive=n_true,
        precision=precision,
        recall=recall,
        f1=2 * (precision or 0.0) * (recall or 0.0) / both if both else (0.0 if n_true else None),
        auc_roc=auc_roc(truth, score),
        auc_pr=average_precision(truth, score),
    )


def auc_roc(truth: BoolArray, score: FloatArray) -> float | None:
    """Chance that an anomaly scores higher than a usual row, ties counting half; None without both."""
    n_true = int(np.count_nonzero(truth))
    n_false = len(truth) - n_true
    if n_true == 0 or n_false == 0:
        return None
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank = (last - (counts - 1) / 2.0)[inverse]
    above = float(mean_rank[truth].sum()) - n_true * (n_true + 1) / 2.0
    return above / (n_true * n_false)


def average_precision(truth: BoolArray, score: FloatArray) -> float | None:
    """Sum over thresholds of recall gained x precision, as scikit-learn has it; None without anomalies."""
    n_true = int(np.count_nonzero(truth))
    if n_true == 0:
        return None
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    hits = np.cumsum(truth[order])
    # Rows of equal score share one threshold: only the last of each run counts.
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    precision = hits[ends] / (ends + 1)
    gained = np.diff(hits[ends], prepend=0) / n_true
    return float((precision * gained).sum())


def windows_found(
    times: NDArray[np.datetime64],
    found: BoolArray,
    windows: Sequence[tuple[np.datetime64, np.datetime64]],
) -> int:
    """How many windows, ends included, hold a labelled row."""
    found_times = np.sort(times[found & ~np.isnat(times)])
    starts = np.array([start for start, _ in windows])
    ends = np.array([end for _, end in windows])
    first = np.searchsorted(found_times, starts, side="left")
    after = np.searchsorted(found_times, ends, side="right")
    return int(np.count_nonzero(after > first))


def in_windows(
    times: NDArray[np.datetime64], windows: Sequence[tuple[np.datetime64, np.datetime64]]
) -> BoolArray:
    """Which times lie in a window, ends included."""
    inside = np.zeros(len(times), dtype=bool)
    for start, end in windows:
        inside |= (times >= start) & (times <= end)
    return inside
