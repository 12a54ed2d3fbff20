from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

from pynomaly_tasks.domain.detection.evaluation import (
    auc_roc,
    average_precision,
    evaluate,
    in_windows,
    windows_found,
)

ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 8), st.booleans()), min_size=2, max_size=60)


@given(ROWS)
def test_figures_equal_scikit_learns(rows: list[tuple[bool, int, bool]]) -> None:
    truth, score, found = (np.array(part) for part in zip(*rows, strict=True))
    truth[:2] = [True, False]
    found[0] = True

    ours = evaluate("column", truth, score.astype(float), found)

    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, found, average="binary", zero_division=0
    )
    assert ours.auc_roc == pytest.approx(roc_auc_score(truth, score), abs=1e-12)
    assert ours.auc_pr == pytest.approx(average_precision_score(truth, score), abs=1e-12)
    assert (ours.precision, ours.recall, ours.f1) == pytest.approx((precision, recall, f1))


def test_figures_without_meaning_are_none() -> None:
    nothing = np.zeros(5, dtype=bool)
    score = np.arange(5.0)

    ours = evaluate("column", nothing, score, nothing)

    assert (ours.precision, ours.recall, ours.f1, ours.auc_roc, ours.auc_pr) == (None,) * 5
    assert auc_roc(~nothing, score) is None
    assert average_precision(~nothing, score) == 1.0


def test_a_window_is_found_by_one_row_in_it_ends_included() -> None:
    times = np.array(["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-09", "NaT"], "datetime64[us]")
    windows = [
        (np.datetime64("2024-01-03", "us"), np.datetime64("2024-01-05", "us")),
        (np.datetime64("2024-01-06", "us"), np.datetime64("2024-01-08", "us")),
        (np.datetime64("2024-01-09", "us"), np.datetime64("2024-01-09", "us")),
    ]
    found = np.array([False, False, True, True, True])

    assert windows_found(times, found, windows) == 2
    assert in_windows(times, windows).tolist() == [False, False, True, True, False]
