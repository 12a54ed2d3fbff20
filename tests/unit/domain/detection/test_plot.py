from __future__ import annotations

import numpy as np

from pynomaly_tasks.domain.detection.plot import MAX_ANOMALIES, MAX_POINTS, thin


def test_a_short_file_is_drawn_whole() -> None:
    chosen = thin(np.zeros(MAX_POINTS), np.zeros(MAX_POINTS, dtype=bool))

    assert len(chosen.row) == MAX_POINTS


def test_a_long_file_keeps_every_anomaly_and_the_extremes_of_the_series() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=100_000)
    values[31_415] = 50.0
    anomaly = np.zeros(100_000, dtype=bool)
    anomaly[rng.choice(100_000, 300, replace=False)] = True

    chosen = thin(rng.random(100_000), anomaly, values)

    assert len(chosen.row) <= MAX_POINTS
    assert set(np.flatnonzero(anomaly)) <= set(chosen.row.tolist())
    assert 31_415 in chosen.row
    assert (np.diff(chosen.row) > 0).all()


def test_too_many_anomalies_leave_the_lowest_out_and_it_is_counted() -> None:
    score = np.arange(10_000.0)
    anomaly = score >= 5_000

    chosen = thin(score, anomaly)

    assert len(chosen.row) <= MAX_POINTS
    assert chosen.n_anomalies_left_out == 5_000 - MAX_ANOMALIES
    assert 9_999 in chosen.row


def test_a_stretch_without_values_is_still_drawn() -> None:
    values = np.full(10_000, np.nan)
    values[:10] = 1.0

    chosen = thin(np.zeros(10_000), np.zeros(10_000, dtype=bool), values)

    assert len(chosen.row) > 500
