"""From scores to labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pynomaly_tasks.domain.detection.detector import FloatArray
from pynomaly_tasks.domain.detection.score_store import ScoreStore
from pynomaly_tasks.domain.detection.threshold_rule import ThresholdRule


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Where the line lies."""

    rule: ThresholdRule
    value: float  #: rows that score this or more are anomalies
    n_ties_labelled: int | None  #: budget only: so many of the rows exactly at the value, in file order
    warnings: tuple[str, ...] = ()


def find_threshold(scores: ScoreStore, rule: ThresholdRule) -> Threshold:
    """The line that ``rule`` draws through these scores; exact for any number of them.

    Ties at the value are labelled together (except under a budget), so more rows than asked for may be;
    a warning says so. When all scores are equal nothing is anomalous.
    """
    if rule.method == "level":
        return Threshold(rule=rule, value=rule.value, n_ties_labelled=None)
    n_wanted = n_rows_wanted(rule, scores.n_rows)
    lowest, value, highest = scores.ascending([0, scores.n_rows - n_wanted, scores.n_rows - 1])
    if lowest == highest:
        return Threshold(
            rule=rule,
            value=float(np.nextafter(highest, np.inf)),
            n_ties_labelled=None,
            warnings=("all rows have the same score: none is anomalous",),
        )
    n_over, n_at = _count(scores, value)
    if rule.method == "budget":
        return Threshold(rule=rule, value=value, n_ties_labelled=n_wanted - n_over)
    if value == lowest:
        # Labelling every row would say nothing: the line goes above the commonest, lowest score.
        value = float(np.nextafter(lowest, np.inf))
        warning = f"{n_at:,} rows share the lowest score: only the {n_over:,} above it are labelled"
        return Threshold(rule=rule, value=value, n_ties_labelled=None, warnings=(warning,))
    extra = n_over + n_at - n_wanted
    warnings = (f"{extra:,} more rows than asked for are labelled: their scores tie",) if extra else ()
    return Threshold(rule=rule, value=value, n_ties_labelled=None, warnings=warnings)


def n_rows_wanted(rule: ThresholdRule, n_rows: int) -> int:
    """How many of ``n_rows`` rows the rule asks for, at least 1 and at most all. Not for a level."""
    if rule.method == "budget":
        return min(int(rule.value), n_rows)
    share = rule.value if rule.method == "contamination" else 1.0 - rule.value
    # Rounded first, so that 0.01 of 100 rows is 1 and 1 - 0.99 is 0.01.
    return max(1, min(n_rows, int(round(share * n_rows, 6))))


def labelled(scores: ScoreStore, threshold: Threshold) -> Iterator[tuple[FloatArray, NDArray[np.bool_]]]:
    """The scores in order, chunk by chunk, and which of them are anomalies."""
    ties_left = threshold.n_ties_labelled
    for chunk in scores.chunks():
        score = chunk.astype(np.float64)
        if ties_left is None:
            yield score, score >= threshold.value
            continue
        anomaly = score > threshold.value
        ties = np.flatnonzero(score == threshold.value)[:ties_left]
        anomaly[ties] = True
        ties_left -= len(ties)
        yield score, anomaly


def _count(scores: ScoreStore, value: float) -> tuple[int, int]:
    n_over = n_at = 0
    for chunk in scores.chunks():
        score = chunk.astype(np.float64)
        n_over += int(np.count_nonzero(score > value))
        n_at += int(np.count_nonzero(score == value))
    return n_over, n_at
