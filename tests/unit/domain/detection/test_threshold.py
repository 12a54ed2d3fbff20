from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from pynomaly_tasks.domain.detection.score_store import ScoreStore
from pynomaly_tasks.domain.detection.threshold import Threshold, find_threshold, labelled, n_rows_wanted
from pynomaly_tasks.domain.detection.threshold_rule import ThresholdRule


def labels(path: Path, scores: list[float], method: str, value: float) -> tuple[Threshold, list[int]]:
    store = ScoreStore(path / "scores.bin")
    store.append(np.array(scores))
    threshold = find_threshold(store, ThresholdRule.model_validate({"method": method, "value": value}))
    flags = np.concatenate([flags for _, flags in labelled(store, threshold)])
    return threshold, np.flatnonzero(flags).tolist()


SCORES = [0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.5, 0.6, 0.0]


@pytest.mark.parametrize(
    ("method", "value", "rows"),
    [
        ("contamination", 0.2, [1, 5]),
        ("contamination", 0.001, [1]),
        ("quantile", 0.7, [1, 3, 5]),
        ("level", 0.55, [1, 3, 5, 8]),
        ("level", 99.0, []),
        ("budget", 3, [1, 3, 5]),
        ("budget", 1_000, list(range(10))),
    ],
)
def test_each_method_labels_the_rows_it_says(
    tmp_path: Path, method: str, value: float, rows: list[int]
) -> None:
    assert labels(tmp_path, SCORES, method, value)[1] == rows


def test_the_value_is_the_lowest_labelled_score(tmp_path: Path) -> None:
    threshold, _ = labels(tmp_path, SCORES, "contamination", 0.3)

    assert threshold.value == 0.7


def test_ties_at_the_value_are_labelled_together_and_it_is_said(tmp_path: Path) -> None:
    threshold, rows = labels(tmp_path, [1, 5, 5, 5, 9, 0, 0, 0, 0, 0], "contamination", 0.2)

    assert rows == [1, 2, 3, 4]
    assert threshold.warnings == ("2 more rows than asked for are labelled: their scores tie",)


def test_a_budget_takes_the_earliest_of_equal_scores(tmp_path: Path) -> None:
    threshold, rows = labels(tmp_path, [1, 5, 5, 5, 9], "budget", 3)

    assert rows == [1, 2, 4]
    assert threshold.warnings == ()


def test_equal_scores_everywhere_mean_no_anomaly(tmp_path: Path) -> None:
    threshold, rows = labels(tmp_path, [2.0] * 50, "contamination", 0.1)

    assert rows == []
    assert "none is anomalous" in threshold.warnings[0]


def test_the_commonest_lowest_score_is_never_anomalous(tmp_path: Path) -> None:
    threshold, rows = labels(tmp_path, [0.0] * 48 + [1.0, 2.0], "contamination", 0.1)

    assert rows == [48, 49]
    assert "only the 2 above it" in threshold.warnings[0]


@pytest.mark.parametrize(
    ("share", "n_rows", "wanted"), [(0.01, 100, 1), (0.07, 100, 7), (0.5, 3, 1), (0.29, 100, 29)]
)
def test_a_share_is_that_many_rows_despite_rounding(share: float, n_rows: int, wanted: int) -> None:
    assert n_rows_wanted(ThresholdRule(method="contamination", value=share), n_rows) == wanted
    assert n_rows_wanted(ThresholdRule(method="quantile", value=1 - share), n_rows) == wanted


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("contamination", 0.0),
        ("contamination", 0.6),
        ("contamination", float("nan")),
        ("quantile", 1.0),
        ("quantile", 0.2),
        ("budget", 0),
        ("budget", 2.5),
        ("level", float("inf")),
        ("magic", 1.0),
    ],
)
def test_a_rule_out_of_range_is_refused(method: str, value: float) -> None:
    with pytest.raises(ValidationError):
        ThresholdRule.model_validate({"method": method, "value": value})
