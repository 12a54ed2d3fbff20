"""The scoring of the Numenta Anomaly Benchmark (Lavin & Ahmad 2015, NAB v1.1), written from its definition.

A detection inside a labelled window earns up to one point, more the earlier it comes; only a window's first
detection counts. One outside costs the profile's false-positive weight, less shortly after a window. A window
without a detection costs the false-negative weight. The first 15 % of a series (at most 750 points) are not
scored. One threshold serves the whole corpus: the one with the best total. 100 is every window found at its
first point without a false alarm; 0 is a detector that never fires.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

PROBATION_SHARE = 0.15
PROBATION_MAX_POINTS = 5_000 * PROBATION_SHARE


@dataclass(frozen=True)
class Profile:
    name: str
    false_positive_weight: float
    false_negative_weight: float
    true_positive_weight: float = 1.0


PROFILES = (
    Profile("standard", 0.11, 1.0),
    Profile("reward_low_FP_rate", 0.22, 1.0),
    Profile("reward_low_FN_rate", 0.11, 2.0),
)


@dataclass(frozen=True)
class Labelled:
    """One series' labels as positions: windows are (first row, last row), both inside."""

    n_rows: int
    windows: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, timestamps: NDArray[np.datetime64], windows: Sequence[Sequence[str]]) -> Labelled:
        """Windows are given by the timestamps of their first and last row, which must be in the series."""
        positions = []
        for first, last in windows:
            start = np.flatnonzero(timestamps == np.datetime64(first, "ns"))
            end = np.flatnonzero(timestamps == np.datetime64(last, "ns"))
            if not len(start) or not len(end):
                raise ValueError(f"window {first} - {last} does not start and end on rows of the series")
            positions.append((int(start[0]), int(end[0])))
        return cls(len(timestamps), tuple(positions))

    @property
    def n_probation(self) -> float:
        return min(float(np.floor(PROBATION_SHARE * self.n_rows)), PROBATION_MAX_POINTS)

    @property
    def window_of_row(self) -> NDArray[np.int64]:
        """Number of the window that holds each row; -1 outside."""
        out = np.full(self.n_rows, -1)
        for number, (first, last) in enumerate(self.windows):
            out[first : last + 1] = number
        return out

    @property
    def scored_windows(self) -> tuple[int, ...]:
        """Windows with at least one row after the probation."""
        return tuple(i for i, (_, last) in enumerate(self.windows) if last >= self.n_probation)


def scaled_sigmoid(position: FloatArray) -> FloatArray:
    """2 / (1 + exp(5 position)) - 1, and -1 from position 3 on."""
    return np.where(position >= 3.0, -1.0, 2.0 / (1.0 + np.exp(5.0 * np.minimum(position, 3.0))) - 1.0)


def row_weights(labelled: Labelled, profile: Profile) -> FloatArray:
    """(n_rows,): what a detection at each row is worth by itself."""
    rows = np.arange(labelled.n_rows)
    position = np.full(labelled.n_rows, 3.0)
    for first, last in labelled.windows:
        width = last - first + 1
        position[last + 1 :] = (rows[last + 1 :] - last) / max(width - 1, 1)
        position[first : last + 1] = -(last - rows[first : last + 1] + 1) / width
    weight = scaled_sigmoid(position)
    best = scaled_sigmoid(np.array([-1.0]))[0]
    inside = labelled.window_of_row >= 0
    return np.where(
        inside, weight * profile.true_positive_weight / best, weight * profile.false_positive_weight
    )


@dataclass(frozen=True)
class Sweep:
    """A corpus' raw score at every threshold that changes it, from the highest down."""

    thresholds: FloatArray  #: inf first: nothing is detected
    scores: FloatArray

    @property
    def best(self) -> tuple[float, float]:
        """(threshold, raw score) of the best total; the highest threshold among equals."""
        i = int(np.argmax(self.scores))
        return float(self.thresholds[i]), float(self.scores[i])


def score_at(score: FloatArray, labelled: Labelled, profile: Profile, threshold: float) -> float:
    """Raw score of one series when every row with ``score >= threshold`` is a detection."""
    sweep = sweep_corpus({"": score}, {"": labelled}, profile)
    return float(sweep.scores[np.flatnonzero(sweep.thresholds >= threshold)[-1]])


def sweep_corpus(
    scores: Mapping[str, FloatArray], labelled: Mapping[str, Labelled], profile: Profile
) -> Sweep:
    """Try every threshold over all series at once."""
    levels: list[FloatArray] = []
    gains: list[FloatArray] = []
    base = 0.0
    for name, score in scores.items():
        truth = labelled[name]
        weight = row_weights(truth, profile)
        scored = np.arange(truth.n_rows) >= truth.n_probation
        window = truth.window_of_row
        base -= profile.false_negative_weight * len(truth.scored_windows)
        outside = scored & (window < 0)
        levels.append(score[outside])
        gains.append(weight[outside])
        for number in truth.scored_windows:
            rows = np.flatnonzero(scored & (window == number))
            rows = rows[np.argsort(-score[rows], kind="stable")]
            so_far = np.maximum.accumulate(np.r_[-profile.false_negative_weight, weight[rows]])
            levels.append(score[rows])
            gains.append(np.diff(so_far))
    level = np.concatenate(levels)
    order = np.argsort(-level, kind="stable")
    level, total = level[order], base + np.cumsum(np.concatenate(gains)[order])
    last_of_level = np.r_[level[1:] != level[:-1], True]
    return Sweep(np.r_[np.inf, level[last_of_level]], np.r_[base, total[last_of_level]])


def normalised(raw: float, n_windows: int, profile: Profile) -> float:
    """0 for a detector that never fires, 100 for the perfect one. ``n_windows`` must be positive."""
    null = -profile.false_negative_weight * n_windows
    return 100.0 * (raw - null) / (profile.true_positive_weight * n_windows - null)
