from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pynomaly_tasks.domain.detection.catalog import DetectorSpec
from pynomaly_tasks.domain.detection.detection import DetectionTask
from pynomaly_tasks.domain.detection.run import detect
from pynomaly_tasks.domain.detection.threshold_rule import ThresholdRule
from pynomaly_tasks.errors import InvalidDataset, InvalidRequest, JobCancelled

N = 130_000  #: longer than the sample and than what distances are exact for


def task(name: str | None = "ecod", **wanted: Any) -> DetectionTask:
    return DetectionTask(
        detector=None if name is None else DetectorSpec.model_validate(name),
        threshold=wanted.pop("threshold", ThresholdRule(method="contamination", value=0.05)),
        **wanted,
    )


@pytest.fixture(scope="module")
def long_columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    columns = {name: rng.normal(size=N) for name in "abc"}
    for name in "abc":
        columns[name][[70_001, 129_999]] = 15.0
    return columns


@pytest.mark.large
@pytest.mark.parametrize(
    "name", ["isolation_forest", "ecod", "hbos", "mahalanobis", "inne", "knn", "lof", "mcd"]
)
def test_a_long_file_is_scored_in_batches_and_its_planted_rows_found(
    name: str, long_columns: Any, table_of: Any, watching: Any, tmp_path: Path
) -> None:
    table = table_of(long_columns)

    found = detect(
        table, task(name, threshold=ThresholdRule(method="budget", value=2), top_n=2), tmp_path, watching
    )

    assert {anomaly.row for anomaly in found.anomalies} == {70_001, 129_999}
    assert max(table.reads) <= 50_000
    assert found.n_scored == N
    assert watching.steps[-1][:2] == (N, N)


@pytest.mark.large
def test_the_scores_file_has_every_row_with_its_label(
    long_columns: Any, table_of: Any, watching: Any, tmp_path: Path
) -> None:
    start = datetime(2024, 1, 1)
    times = np.datetime64(start, "us") + np.arange(N) * np.timedelta64(1, "s")

    found = detect(table_of({"at": times, **long_columns}), task(), tmp_path, watching)

    scores = pq.read_table(found.scores_file)
    assert scores.column_names == ["row", "timestamp", "score", "label"]
    np.testing.assert_array_equal(scores["row"], np.arange(N))
    assert scores["timestamp"][N - 1].as_py() == start + timedelta(seconds=N - 1)
    label, score = np.array(scores["label"]), np.array(scores["score"])
    assert label.sum() == found.n_anomalies == N // 20
    assert score[label].min() == found.threshold.value > score[~label].max()
    assert found.score_quantiles["1.0"] == score.max()
    assert found.anomalies[0].timestamp is not None


@pytest.mark.large
def test_the_same_request_twice_gives_the_same_scores(
    long_columns: Any, table_of: Any, watching: Any, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()

    a = detect(table_of(long_columns), task("isolation_forest", seed=5), first, watching)
    b = detect(table_of(long_columns), task("isolation_forest", seed=5), second, watching)

    assert pq.read_table(a.scores_file).equals(pq.read_table(b.scores_file))
    assert a.anomalies == b.anomalies


def test_a_labelled_column_is_evaluated_and_empty_labels_are_left_out(
    table_of: Any, watching: Any, tmp_path: Path
) -> None:
    a = np.concatenate([np.linspace(0, 1, 98), [50.0, 60.0]])
    truth = ["normal"] * 97 + [None, "anomaly", "Anomaly "]

    found = detect(
        table_of({"a": a, "truth": truth}),
        task("knn", label_column="truth", threshold=ThresholdRule(method="budget", value=2)),
        tmp_path,
        watching,
    )

    assert found.evaluation is not None
    assert found.evaluation.n_labelled == 99
    assert found.evaluation.n_positive == 2
    assert found.evaluation.auc_roc == 1.0


@pytest.mark.parametrize("values", [[0, 1, 2] * 10, ["maybe"] * 30])
def test_a_label_that_is_neither_is_refused(
    values: list[Any], table_of: Any, watching: Any, tmp_path: Path
) -> None:
    table = table_of({"a": np.arange(30.0), "label": values})

    with pytest.raises(InvalidRequest) as caught:
        detect(table, task(label_column="label"), tmp_path, watching)

    assert caught.value.problems[0].field == "label_column"


def test_windows_are_evaluated_by_time(table_of: Any, watching: Any, tmp_path: Path) -> None:
    times = np.datetime64("2024-01-01", "us") + np.arange(200) * np.timedelta64(1, "h")
    a, b = np.sin(np.arange(200.0)), np.cos(np.arange(200.0))
    a[100], b[100] = 30.0, 30.0
    windows = [(times[98].item(), times[103].item()), (times[10].item(), times[12].item())]

    found = detect(
        table_of({"at": times, "a": a, "b": b}),
        task("knn", label_windows=windows, threshold=ThresholdRule(method="budget", value=1)),
        tmp_path,
        watching,
    )

    assert found.evaluation is not None
    assert (found.evaluation.n_windows, found.evaluation.windows_found) == (2, 1)
    assert (found.evaluation.n_positive, found.evaluation.precision) == (9, 1.0)


def test_windows_without_times_are_refused(table_of: Any, watching: Any, tmp_path: Path) -> None:
    windows = [(datetime(2024, 1, 1), datetime(2024, 1, 2))]

    with pytest.raises(InvalidRequest, match="label_windows"):
        detect(table_of({"a": np.arange(30.0)}), task(label_windows=windows), tmp_path, watching)


@pytest.mark.parametrize("n_rows", [1, 9])
def test_too_few_rows_are_refused_with_the_limit(
    n_rows: int, table_of: Any, watching: Any, tmp_path: Path
) -> None:
    table = table_of({"a": np.arange(float(max(n_rows, 2)))[:n_rows], "b": np.arange(n_rows) % 2 * 1.0})

    with pytest.raises(InvalidDataset, match=r"at least 10|every value is the same"):
        detect(table, task(), tmp_path, watching)


def test_more_rows_than_a_detector_takes_are_refused_with_the_limit(
    table_of: Any, watching: Any, tmp_path: Path
) -> None:
    table = table_of({"a": np.arange(20_001.0)})

    with pytest.raises(InvalidRequest, match=r"at most 20,000 rows and the file has 20,001"):
        detect(table, task("one_class_svm"), tmp_path, watching)


def test_more_neighbours_than_rows_are_refused_with_the_limit(
    table_of: Any, watching: Any, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match=r"n_neighbors: 20 neighbours .* at most 14"):
        detect(table_of({"a": np.arange(15.0)}), task("lof"), tmp_path, watching)


@pytest.mark.parametrize("name", ["isolation_forest", "mahalanobis", "knn", "hbos"])
def test_huge_values_are_taken_as_missing_and_told(
    name: str, table_of: Any, watching: Any, tmp_path: Path
) -> None:
    a = np.arange(50.0)
    a[[3, 4, 5]] = [np.inf, 1e308, -1e300]

    found = detect(table_of({"a": a, "b": np.arange(50.0)[::-1]}), task(name), tmp_path, watching)

    assert "a: 3 values that are infinite or beyond 1e37 are taken as missing" in found.warnings
    assert [(item.column, item.n_missing) for item in found.filled] == [("a", 3)]


def test_without_a_named_detector_a_table_gets_the_forest(
    table_of: Any, watching: Any, tmp_path: Path
) -> None:
    found = detect(table_of({"a": np.arange(30.0), "b": np.ones(30)}), task(None), tmp_path, watching)

    assert found.detector.name == "isolation_forest"


def test_without_a_named_detector_dates_and_one_number_are_a_series(
    table_of: Any, watching: Any, tmp_path: Path
) -> None:
    times = np.datetime64("2024-01-01", "us") + np.arange(400) * np.timedelta64(1, "h")
    values = np.random.default_rng(0).normal(size=400)
    values[300] = 40.0

    found = detect(
        table_of({"at": times, "a": values}),
        task(None, threshold=ThresholdRule(method="budget", value=1)),
        tmp_path,
        watching,
    )

    assert found.detector.name == "rolling_robust_z"
    assert [anomaly.row for anomaly in found.anomalies] == [300]
    assert found.anomalies[0].contributions[0].direction == "high"
    assert found.plot.kind == "series"
    assert found.plot.x[0] == "2024-01-01T00:00:00"


def test_a_series_detector_wants_one_column_and_lists_those_there_are(
    table_of: Any, watching: Any, tmp_path: Path
) -> None:
    table = table_of({"a": np.arange(100.0), "b": np.arange(100.0) ** 2})

    with pytest.raises(InvalidRequest, match="name one of a, b"):
        detect(table, task("stl_residual"), tmp_path, watching)


def test_a_job_that_was_cancelled_stops_between_steps(table_of: Any, tmp_path: Path) -> None:
    class Cancelled:
        def progress(self, current: int, total: int, status: str) -> None:
            return None

        def checkpoint(self) -> None:
            raise JobCancelled

    with pytest.raises(JobCancelled):
        detect(table_of({"a": np.arange(50.0)}), task("knn"), tmp_path, Cancelled())


def test_a_wide_table_is_explained_by_its_furthest_columns(
    table_of: Any, watching: Any, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).normal(size=(200, 120))
    x[7, 100] = 30.0
    table = table_of({f"c{j}": x[:, j] for j in range(120)})

    found = detect(table, task("knn", threshold=ThresholdRule(method="budget", value=1)), tmp_path, watching)

    assert found.anomalies[0].row == 7
    assert found.anomalies[0].contributions[0].column == "c100"
    assert len(found.anomalies[0].contributions) <= 10


def test_text_left_out_is_still_shown_beside_an_anomaly(table_of: Any, watching: Any, tmp_path: Path) -> None:
    a = np.arange(50.0)
    a[11] = 900.0
    names = pa.array([f"=cmd({i})" for i in range(50)])

    found = detect(table_of({"a": a, "name": names}), task("knn"), tmp_path, watching)

    assert found.anomalies[0].values == {"a": 900.0, "name": "=cmd(11)"}
