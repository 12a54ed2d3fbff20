from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pynomaly_tasks.domain.detection.plot import MAX_ANOMALIES, MAX_POINTS, thin


@dataclass
class InMemory:
    score: np.ndarray

    @property
    def n_rows(self) -> int:
        return len(self.score)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.score[start:stop]


NONE = np.empty(0, dtype=np.int64)


def test_a_short_file_is_drawn_whole() -> None:
    assert len(thin(InMemory(np.zeros(MAX_POINTS)), NONE)) == MAX_POINTS


def test_a_long_file_keeps_every_anomaly_and_the_extremes_of_the_series() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=100_000)
    values[31_415] = 50.0
    flagged = rng.choice(100_000, 300, replace=False)

    rows = thin(InMemory(rng.random(100_000)), flagged, values)

    assert len(rows) <= MAX_POINTS
    assert set(flagged.tolist()) <= set(rows.tolist())
    assert 31_415 in rows
    assert (np.diff(rows) > 0).all()


def test_without_a_series_the_highest_score_of_each_stretch_is_drawn() -> None:
    score = np.arange(10_000.0)

    rows = thin(InMemory(score), np.arange(MAX_ANOMALIES))

    assert len(rows) <= MAX_POINTS
    assert 9_999 in rows


def test_a_stretch_without_values_is_still_drawn() -> None:
    values = np.full(10_000, np.nan)
    values[:10] = 1.0

    rows = thin(InMemory(np.zeros(10_000)), NONE, values)

    assert len(rows) > 500
