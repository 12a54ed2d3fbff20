"""Why a row scored as it did: what each column adds to its score, and in which direction it is unusual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pynomaly_tasks.domain.detection.detector import Detector, FloatArray, Tick
from pynomaly_tasks.domain.detection.preparation import Preparation
from pynomaly_tasks.domain.detection.top_rows import TopRow

MAX_SHOWN = 10  #: columns named for one row, the largest contribution first
#: Columns of a row that are tried out, where a detector cannot say itself: those furthest from the median.
MAX_OCCLUDED = 40
_ROWS_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """One column's part in one row's score."""

    column: str
    value: Any
    contribution: float  #: in units of the score; over 0 pushes it up
    share: float  #: of all that pushes up, 0 to 1
    direction: Literal["high", "low", "missing"]  #: of the value, against the column's median


def explain(
    detector: Detector, preparation: Preparation, rows: Sequence[TopRow], *, fill: bool, tick: Tick
) -> list[tuple[Contribution, ...]]:
    """The contributions for each row, seen in the fit or not.

    Detectors that add up by column say their terms. For the others a column's contribution is by how much
    the score falls when its value is replaced by the column's median (occlusion); of wide rows the 40
    columns furthest from their medians, in robust deviations, are tried. Where no single replacement lowers
    the score, the robust deviations take its place, scaled to the score.
    """
    if not rows:
        return []
    raw = np.array([row.x for row in rows])
    x = preparation.fill(raw) if fill else raw
    terms = detector.contributions(x)
    if terms is None:
        terms = _occluded(detector, preparation, x, np.array([row.score for row in rows]), tick)
    return [_named(preparation, row, row_terms) for row, row_terms in zip(rows, terms, strict=True)]


def _occluded(
    detector: Detector, preparation: Preparation, x: FloatArray, scores: FloatArray, tick: Tick
) -> FloatArray:
    medians = preparation.medians()
    deviations = np.abs(np.where(np.isnan(x), medians, x) - medians) / preparation.spreads()
    # A missing value is unusual in itself where the detector takes it: try it first.
    deviations = np.where(np.isnan(x), np.inf, deviations)
    tried = np.argsort(-deviations, axis=1, kind="stable")[:, :MAX_OCCLUDED]
    n_tried = tried.shape[1]
    at_once = max(1, _ROWS_AT_ONCE // n_tried)
    terms = np.zeros(x.shape)
    for start in range(0, len(x), at_once):
        tick()
        block = slice(start, min(start + at_once, len(x)))
        columns = tried[block]
        n_rows = len(columns)
        variants = np.repeat(x[block], n_tried, axis=0)
        flat = columns.ravel()
        variants[np.arange(len(flat)), flat] = medians[flat]
        fall = scores[block, None] - detector.score(variants).reshape(n_rows, n_tried)
        np.put_along_axis(terms[block], columns, fall, axis=1)
    finite = np.where(np.isinf(deviations), 0.0, deviations)
    silent = ~(terms > 0).any(axis=1) & (finite.sum(axis=1) > 0)
    if silent.any():
        shares = finite[silent] / finite[silent].sum(axis=1, keepdims=True)
        terms[silent] = shares * np.abs(scores[silent, None])
    return terms


def _named(preparation: Preparation, row: TopRow, terms: FloatArray) -> tuple[Contribution, ...]:
    up = float(terms[terms > 0].sum())
    order = np.argsort(-terms, kind="stable")[:MAX_SHOWN]
    out: list[Contribution] = []
    for j in order:
        term = float(terms[j])
        if term == 0.0 and out:
            break
        column = preparation.used[j]
        direction: Literal["high", "low", "missing"] = "high" if row.x[j] >= column.median else "low"
        out.append(
            Contribution(
                column=column.name,
                value=row.values.get(column.name),
                contribution=term,
                share=max(term, 0.0) / up if up > 0 else 0.0,
                direction="missing" if np.isnan(row.x[j]) else direction,
            )
        )
    return tuple(out)
