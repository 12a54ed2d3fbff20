from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pynomaly_tasks.datasets.opener import DatasetOpener
from pynomaly_tasks.errors import InvalidDataset, InvalidInput, InvalidRequest
from pynomaly_tasks.jobs.context import Outcome
from pynomaly_tasks.kinds import detect_anomalies, detect_ensemble
from pynomaly_tasks.kinds.detect_anomalies import DetectAnomaliesRequest
from pynomaly_tasks.kinds.detect_ensemble import DetectEnsembleRequest

EXAMPLES = Path(__file__).parents[3] / "examples" / "data"
TAXI = str(EXAMPLES / "nab" / "nyc_taxi.csv")
CARDIO = str(EXAMPLES / "adbench" / "cardio.parquet")
GLASS = str(EXAMPLES / "adbench" / "glass.csv")


@dataclass
class RunningAttempt:
    scratch: Path
    job_id: str = "job"
    attempt: int = 1
    steps: list[tuple[int, int, str]] = field(default_factory=list)

    def progress(self, current: int, total: int, status: str) -> None:
        self.steps.append((current, total, status))

    def checkpoint(self) -> None:
        return None


@dataclass(frozen=True)
class OnlyDatasets:
    datasets: DatasetOpener


class Work:
    def __init__(self, tmp_path: Path) -> None:
        self.data = tmp_path / "data"
        self.data.mkdir()
        (tmp_path / "temp").mkdir()
        opener = DatasetOpener([EXAMPLES, self.data], 2_000, 1_000_000, 256, tmp_path / "temp")
        self._services: Any = OnlyDatasets(opener)
        self._scratch = tmp_path / "scratch"
        self._scratch.mkdir()
        self.context = RunningAttempt(self._scratch)

    def file(self, name: str, text: str) -> str:
        path = self.data / name
        path.write_text(text)
        return str(path)

    def __call__(self, **request: Any) -> Outcome:
        return detect_anomalies.perform(
            self.context, DetectAnomaliesRequest.model_validate(request), self._services
        )

    def ensemble(self, **request: Any) -> Outcome:
        return detect_ensemble.perform(
            self.context, DetectEnsembleRequest.model_validate(request), self._services
        )


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


def test_a_table_leaves_scores_reasons_and_an_evaluation(work: Work) -> None:
    outcome = work(dataset=CARDIO, label_column="label", contamination=0.1, top_n=5)

    detail = outcome.detail
    assert outcome.anomalies_found == detail["n_anomalies"] == 183
    assert detail["detector"]["name"] == "isolation_forest"
    assert detail["dataset"]["n_rows"] == detail["n_scored"] == 1_831
    assert detail["columns"]["label"] == "label"
    assert len(detail["columns"]["used"]) == 21
    assert detail["threshold"]["method"] == "contamination"
    assert detail["evaluation"]["auc_roc"] > 0.9
    assert [anomaly["rank"] for anomaly in detail["anomalies"]] == [1, 2, 3, 4, 5]
    assert {"column", "value", "contribution", "share", "direction"} == set(
        detail["anomalies"][0]["contributions"][0]
    )
    assert set(detail["timing_s"]) == {"open", "fit", "score", "total"}
    assert detail["versions"]["scikit-learn"]
    assert "isolation_forest was chosen: no detector was named" in detail["warnings"]
    assert pq.read_table(outcome.files["scores.parquet"]).num_rows == 1_831
    assert work.context.steps[-1] == (1_831, 1_831, "explaining")


def test_the_detail_is_plain_json(work: Work) -> None:
    for dataset in (CARDIO, TAXI):
        detail = work(dataset=dataset).detail
        assert json.loads(json.dumps(detail, allow_nan=False))["n_scored"] == detail["n_scored"]


def test_a_series_is_recognised_and_evaluated_by_windows(work: Work) -> None:
    windows = json.loads((EXAMPLES / "nab" / "windows.json").read_text())["nyc_taxi.csv"]

    detail = work(dataset=TAXI, label_windows=windows).detail

    assert detail["detector"]["name"] == "rolling_robust_z"
    assert detail["detector"]["kind"] == detail["plot"]["kind"] == "series"
    assert detail["columns"]["timestamp"] == "timestamp"
    assert detail["evaluation"]["n_windows"] == 5
    assert detail["evaluation"]["windows_found"] >= 1
    assert len(detail["plot"]["x"]) <= 2_000
    assert sum(detail["plot"]["anomaly"]) == detail["n_anomalies"]
    assert detail["anomalies"][0]["timestamp"].startswith("201")


def test_a_named_detector_and_its_parameters_are_used(work: Work) -> None:
    detail = work(
        dataset=GLASS, label_column="label", detector={"name": "knn", "params": {"n_neighbors": 7}}
    ).detail

    assert detail["detector"] == {
        "name": "knn",
        "kind": "tabular",
        "params": {"n_neighbors": 7, "method": "largest", "scaling": "standard", "reference_rows": 2_000},
    }
    assert detail["warnings"] == []


def test_an_ensemble_is_reported_with_its_members(work: Work) -> None:
    detail = work.ensemble(dataset=GLASS, label_column="label", detectors=["ecod", "knn"]).detail

    members = detail["detector"]["params"]["members"]
    assert [member["name"] for member in members] == ["ecod", "knn"]
    assert detail["evaluation"]["auc_roc"] > 0.75


@pytest.mark.parametrize(
    ("request_", "where"),
    [
        ({"detector": "isolation_forrest"}, ("detector", "name")),
        ({"detector": {"name": "knn", "params": {"n_neighbors": 0}}}, ("detector", "params", "n_neighbors")),
        ({"detector": {"name": "knn", "params": {"k": 5}}}, ("detector", "params", "k")),
        ({"detector": {"name": "knn", "parameters": {}}}, ("detector", "parameters")),
        ({"contamination": 0}, ("contamination",)),
        ({"contamination": 0.6}, ("contamination",)),
        ({"contamination": float("nan")}, ("contamination",)),
        ({"contamination": 0.1, "threshold": {"method": "level", "value": 1}}, ()),
        ({"threshold": {"method": "quantile", "value": 2}}, ("threshold",)),
        ({"top_n": 0}, ("top_n",)),
        ({"top_n": 1_001}, ("top_n",)),
        ({"seed": -1}, ("seed",)),
        ({"columns": []}, ("columns",)),
        ({"columns": ["a", "a"]}, ()),
        ({"label_column": "a", "label_windows": [["2024-01-01", "2024-01-02"]]}, ()),
        ({"label_windows": [["2024-01-02", "2024-01-01"]]}, ()),
        ({"label_windows": [["2024-01-01", "2024-01-02T00:00:00Z"]]}, ()),
        ({"dataset": ""}, ("dataset",)),
        ({"surprise": 1}, ("surprise",)),
    ],
)
def test_a_bad_request_is_refused_at_the_door_with_the_field(
    request_: dict[str, Any], where: tuple[str, ...]
) -> None:
    with pytest.raises(ValidationError) as caught:
        DetectAnomaliesRequest.model_validate({"dataset": "data.csv", **request_})

    assert caught.value.errors()[0]["loc"] == where


@pytest.mark.parametrize(
    ("text", "request_", "error", "told"),
    [
        ("a,b\n1,2\n", {}, InvalidDataset, "value is the same|at least 10"),
        ("a,b\n" + ",\n" * 20, {}, InvalidDataset, "every value is missing"),
        ("a,b\n" + "x,y\n" * 20, {}, InvalidDataset, "text; name it in columns"),
        ("a,b\n1,2\n3,1\n" * 1 + "2,2\n" * 20, {"columns": ["c"]}, InvalidRequest, "no column 'c'"),
        ("a,b\n1,2\n3,1\n" + "2,2\n" * 20, {"label_column": "a"}, InvalidRequest, "holds '"),
        ("a,b\n1,2\n3,1\n" + "2,2\n" * 20, {"detector": "stl_residual"}, InvalidRequest, "one of a, b"),
        ("a,b\n1,2\n3,1\n" + "2,2\n" * 20, {"timestamp_column": "a"}, InvalidRequest, "must hold dates"),
    ],
)
def test_data_that_cannot_be_worked_on_is_refused_with_the_reason(
    text: str, request_: dict[str, Any], error: type[InvalidInput], told: str, work: Work
) -> None:
    dataset = work.file("data.csv", text)

    with pytest.raises(error, match=told):
        work(dataset=dataset, **request_)


def test_hostile_column_names_and_texts_come_back_as_they_are(work: Work) -> None:
    rows = "".join(f"{i % 7},=cmd(),{i}\n" for i in range(40))
    dataset = work.file("data.csv", f"<b>x</b>,=cmd(),a\n{rows}99,=cmd(),3\n")

    top = work(dataset=dataset, detector="knn", threshold={"method": "budget", "value": 1}).detail[
        "anomalies"
    ][0]

    assert top["row"] == 40
    assert top["values"] == {"<b>x</b>": 99, "=cmd()": "=cmd()", "a": 3}
    assert top["contributions"][0]["column"] == "<b>x</b>"


def test_an_extra_that_is_not_installed_is_named(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    from pynomaly_tasks.domain.detection import pyod_detector

    request = DetectAnomaliesRequest(dataset=GLASS, detector="pyod:KNN")  # type: ignore[arg-type]
    monkeypatch.setattr(pyod_detector, "pyod_classes", lambda: None)

    with pytest.raises(InvalidRequest, match=r"pip install 'pynomaly-tasks\[pyod\]'"):
        work(**request.model_dump(mode="json"))


@pytest.mark.large
def test_a_pyod_parameter_that_the_class_does_not_take_is_refused_with_those_it_does(work: Work) -> None:
    with pytest.raises(InvalidRequest, match=r"detector\.params\.k: pyod:LODA has no parameter .*n_bins"):
        work(dataset=GLASS, detector={"name": "pyod:LODA", "params": {"k": 3}})


@pytest.mark.large
@pytest.mark.parametrize("kind", ["detect_anomalies", "detect_ensemble"])
def test_importing_a_kind_loads_no_numerical_library(kind: str) -> None:
    code = (
        f"import sys, pynomaly_tasks.kinds.{kind};"
        "print(sorted({'numpy','scipy','sklearn','pyarrow','duckdb','pyod'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
