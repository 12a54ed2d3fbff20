from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynomaly_tasks.domain.detection.build import build_detector
from pynomaly_tasks.domain.detection.catalog import CATALOG, DetectorSpec
from pynomaly_tasks.domain.detection.detection import DetectionTask
from pynomaly_tasks.domain.detection.run import detect
from pynomaly_tasks.domain.detection.threshold_rule import ThresholdRule

TABULAR = sorted(name for name, entry in CATALOG.items() if entry.kind == "tabular")
PLANTED = (17, 42, 77, 99)


def blobs(n: int = 110, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal([10.0, -5.0, 100.0], [1.0, 0.2, 20.0], (n, 3))
    x[PLANTED[0]] = [22.0, -2.5, 350.0]
    x[PLANTED[1]] = [-4.0, -8.0, 380.0]
    x[PLANTED[2]] = [25.0, -7.5, -150.0]
    x[PLANTED[3]] = [-3.0, -2.0, -200.0]
    return x


@cache
def fitted(name: str, seed: int = 0) -> Any:
    x = blobs()
    detector = build_detector(DetectorSpec(name=name), seed)
    detector.fit_rows(len(x))
    detector.fit(x, lambda: None)
    return detector


@pytest.mark.parametrize("name", TABULAR)
def test_planted_anomalies_in_110_rows_rank_first(
    name: str, table_of: Any, watching: Any, tmp_path: Any
) -> None:
    x = blobs()
    table = table_of({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2]})
    task = DetectionTask(
        detector=DetectorSpec(name=name), threshold=ThresholdRule(method="budget", value=4), top_n=4
    )

    found = detect(table, task, tmp_path, watching)

    assert {anomaly.row for anomaly in found.anomalies} == set(PLANTED)


@pytest.mark.parametrize("name", TABULAR)
@pytest.mark.parametrize(("column", "value", "direction"), [("a", 22.0, "high"), ("b", -9.0, "low")])
def test_the_first_reason_names_the_planted_column_and_its_direction(
    name: str, column: str, value: float, direction: str, table_of: Any, watching: Any, tmp_path: Any
) -> None:
    x = np.random.default_rng(3).normal([10.0, -5.0, 100.0], [1.0, 0.2, 20.0], (110, 3))
    columns = {"a": x[:, 0], "b": x[:, 1], "c": x[:, 2]}
    columns[column][42] = value
    task = DetectionTask(
        detector=DetectorSpec(name=name), threshold=ThresholdRule(method="budget", value=110), top_n=110
    )

    found = detect(table_of(columns), task, tmp_path, watching)

    [planted] = [anomaly for anomaly in found.anomalies if anomaly.row == 42]
    first = planted.contributions[0]
    assert (first.column, first.direction, first.value) == (column, direction, value)
    assert first.contribution > 0
    assert 0 < first.share <= 1


@pytest.mark.large
@pytest.mark.parametrize("name", TABULAR)
@given(data=st.data())
def test_a_rows_score_is_the_same_alone_in_a_batch_and_in_another_order(name: str, data: Any) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows = np.concatenate([blobs(), rng.normal([10.0, -5.0, 100.0], [3.0, 1.0, 60.0], (20, 3))])
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=40))
    detector = fitted(name)

    together = detector.score(rows)
    shuffled = detector.score(rows[chosen])
    alone = detector.score(rows[chosen[:1]])

    np.testing.assert_allclose(shuffled, together[chosen], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(alone, together[chosen[:1]], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", TABULAR)
def test_the_same_seed_gives_the_same_scores(name: str) -> None:
    x = blobs()
    again = build_detector(DetectorSpec(name=name), 0)
    again.fit_rows(len(x))
    again.fit(x, lambda: None)

    np.testing.assert_array_equal(again.score(x), fitted(name).score(x))


@pytest.mark.parametrize("name", ["isolation_forest", "inne", "ensemble"])
def test_another_seed_gives_other_scores(name: str) -> None:
    x = blobs()

    assert (fitted(name, seed=1).score(x) != fitted(name, seed=0).score(x)).any()


@pytest.mark.parametrize("name", TABULAR)
def test_contributions_add_up_to_the_score_where_a_detector_states_them(name: str) -> None:
    x = blobs()
    detector = fitted(name)

    terms = detector.contributions(x)

    if terms is not None:
        np.testing.assert_allclose(terms.sum(axis=1), detector.score(x), rtol=1e-9, atol=1e-9)
    assert (terms is not None) == (name in {"ecod", "hbos", "mahalanobis", "mcd"})


@pytest.mark.parametrize("name", ["ecod", "hbos", "mahalanobis"])
def test_parts_learnt_apart_and_merged_score_as_the_whole(name: str) -> None:
    x = blobs(1_000)
    whole, left, right = (build_detector(DetectorSpec(name=name), 0) for _ in range(3))
    whole.fit(x, lambda: None)

    left.update(x[:300])
    left.update(x[300:410])
    right.update(x[410:])
    left.merge(right)

    np.testing.assert_allclose(left.score(x), whole.score(x), rtol=1e-9)


@pytest.mark.parametrize("name", ["ecod", "hbos", "mahalanobis"])
def test_long_parts_learnt_apart_and_merged_score_nearly_as_the_whole(name: str) -> None:
    x = np.random.default_rng(0).normal(size=(160_000, 2))
    whole, left, right = (build_detector(DetectorSpec(name=name), 0) for _ in range(3))
    whole.fit(x, lambda: None)

    left.update(x[:70_000])
    right.update(x[70_000:])
    left.merge(right)

    a, b = left.score(x[:5_000]), whole.score(x[:5_000])
    assert np.abs(a - b).max() < 0.05


@pytest.mark.parametrize("name", TABULAR)
def test_rows_with_missing_values_get_a_finite_score(
    name: str, table_of: Any, watching: Any, tmp_path: Any
) -> None:
    x = blobs()
    x[5, 0] = x[6, 1] = np.nan
    table = table_of({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2]})
    task = DetectionTask(
        detector=DetectorSpec(name=name), threshold=ThresholdRule(method="budget", value=4), top_n=110
    )

    found = detect(table, task, tmp_path, watching)

    assert {(item.column, item.n_missing) for item in found.filled} == {("a", 1), ("b", 1)}
    assert found.n_scored == 110


@pytest.mark.parametrize("name", TABULAR)
def test_one_column_is_enough(name: str, table_of: Any, watching: Any, tmp_path: Any) -> None:
    x = np.random.default_rng(3).normal(10.0, 1.0, 110)
    x[17], x[77] = 22.0, -5.0
    task = DetectionTask(
        detector=DetectorSpec(name=name), threshold=ThresholdRule(method="budget", value=2), top_n=2
    )

    found = detect(table_of({"a": x}), task, tmp_path, watching)

    assert {anomaly.row for anomaly in found.anomalies} == {17, 77}
