"""Detection on real labelled tables, beside the libraries called directly and beside measured figures."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.covariance import MinCovDet
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor
from sklearn.svm import OneClassSVM

from pynomaly_tasks.datasets.opener import DatasetOpener
from pynomaly_tasks.domain.detection.catalog import DetectorSpec
from pynomaly_tasks.domain.detection.detection import Detection, DetectionTask
from pynomaly_tasks.domain.detection.run import detect
from pynomaly_tasks.domain.detection.threshold_rule import ThresholdRule

ROOT = Path(__file__).parents[2]
TABLES = ROOT / "examples" / "data" / "adbench"
NAMES = ("breastw", "cardio", "glass", "thyroid", "vowels", "wine")

Detect = Callable[..., "Found"]


class Silent:
    def progress(self, current: int, total: int, status: str) -> None:
        return None

    def checkpoint(self) -> None:
        return None


@dataclass(frozen=True)
class Found:
    detection: Detection
    score: np.ndarray

    @property
    def auc_roc(self) -> float:
        assert self.detection.evaluation is not None
        assert self.detection.evaluation.auc_roc is not None
        return self.detection.evaluation.auc_roc


def path_of(name: str) -> Path:
    return next(TABLES.glob(f"{name}.*"))


@cache
def rows_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    if path_of(name).suffix == ".parquet":
        table = pq.read_table(path_of(name))
        rows = np.column_stack([table[column].to_numpy() for column in table.column_names])
    else:
        rows = np.loadtxt(path_of(name), delimiter=",", skiprows=1)
    return rows[:, :-1], rows[:, -1].astype(int)


@cache
def oracle() -> Mapping[tuple[str, str, str], tuple[float, float]]:
    """(table, detector, scaling) to mean and deviation of the AUC-ROC over seeds."""
    with (ROOT / "tests" / "data" / "detection_oracle.csv").open() as file:
        return {
            (row["dataset"], row["detector"], row["scaling"]): (
                float(row["auc_roc_mean"]),
                float(row["auc_roc_std"] or 0.0),
            )
            for row in csv.DictReader(file)
        }


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Detect:
    opener = DatasetOpener([TABLES], 2_000, 1_000_000, 512, tmp_path_factory.mktemp("duckdb"))

    def detected(name: str, detector: Any, seed: int = 0) -> Found:
        task = DetectionTask(
            detector=DetectorSpec.model_validate(detector),
            threshold=ThresholdRule(method="contamination", value=0.05),
            label_column="label",
            seed=seed,
        )
        with opener.open(str(path_of(name))) as dataset:
            detection = detect(dataset, task, tmp_path_factory.mktemp("scratch"), Silent())
        return Found(detection, pq.read_table(detection.scores_file)["score"].to_numpy())

    return detected


def standard(x: np.ndarray) -> np.ndarray:
    # Column-major as in the file, so that the means are summed in the same order: where rows tie, the last
    # digit decides which of them is the neighbour.
    x = np.asfortranarray(x)
    return np.ascontiguousarray((x - x.mean(axis=0)) / x.std(axis=0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scaling", ["standard", "none"])
def test_knn_equals_pyods(name: str, scaling: str, run: Detect) -> None:
    from pyod.models.knn import KNN

    x, y = rows_of(name)
    scaled = standard(x) if scaling == "standard" else x
    direct = KNN(n_neighbors=5, n_jobs=1).fit(scaled).decision_scores_

    ours = run(name, {"name": "knn", "params": {"scaling": scaling}})

    np.testing.assert_allclose(ours.score, direct, rtol=1e-9, atol=1e-9)
    assert ours.auc_roc == pytest.approx(roc_auc_score(y, direct), abs=1e-9)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "breastw"])
@pytest.mark.parametrize("scaling", ["standard", "none"])
def test_lof_equals_scikit_learns(name: str, scaling: str, run: Detect) -> None:
    x, y = rows_of(name)
    scaled = standard(x) if scaling == "standard" else x
    model = LocalOutlierFactor(n_neighbors=20, algorithm="kd_tree", n_jobs=1).fit(scaled)
    direct = -model.negative_outlier_factor_

    ours = run(name, {"name": "lof", "params": {"scaling": scaling}})

    assert ours.auc_roc == pytest.approx(roc_auc_score(y, direct), abs=1e-9)
    np.testing.assert_allclose(ours.score, direct, rtol=1e-9)


def test_lof_warns_of_rows_with_too_many_duplicates(run: Detect) -> None:
    [warning] = run("breastw", "lof").detection.warnings

    assert "rows have 20 or more duplicates" in warning


@pytest.mark.parametrize("name", ["breastw", "wine", "glass"])
def test_mcd_equals_scikit_learns(name: str, run: Detect) -> None:
    x, y = rows_of(name)
    direct = MinCovDet(random_state=0).fit(x).mahalanobis(x)

    ours = run(name, "mcd")

    np.testing.assert_allclose(ours.score, direct, rtol=1e-9)
    assert ours.auc_roc == pytest.approx(roc_auc_score(y, direct), abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_one_class_svm_equals_scikit_learns(name: str, run: Detect) -> None:
    x, y = rows_of(name)
    scaled = standard(x)
    direct = -OneClassSVM(kernel="rbf", nu=0.5, gamma="auto").fit(scaled).decision_function(scaled)

    ours = run(name, "one_class_svm")

    np.testing.assert_allclose(ours.score, direct, rtol=1e-9, atol=1e-9)
    assert ours.auc_roc == pytest.approx(roc_auc_score(y, direct), abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_isolation_forest_with_one_seed_equals_scikit_learns(name: str, run: Detect) -> None:
    x, y = rows_of(name)
    model = IsolationForest(n_estimators=100, max_samples=min(256, len(x)), random_state=4, n_jobs=1).fit(x)
    direct = -model.score_samples(x)

    ours = run(name, "isolation_forest", seed=4)

    np.testing.assert_allclose(ours.score, direct, rtol=1e-9)
    assert ours.auc_roc == pytest.approx(roc_auc_score(y, direct), abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_isolation_forest_over_seeds_is_within_three_deviations_of_what_was_measured(
    name: str, run: Detect
) -> None:
    mean, deviation = oracle()[(name, "IForest", "raw")]

    ours = float(np.mean([run(name, "isolation_forest", seed=seed).auc_roc for seed in range(5)]))

    assert abs(ours - mean) <= 3 * deviation


@pytest.mark.parametrize("name", NAMES)
def test_ecod_ranks_as_pyods(name: str, run: Detect) -> None:
    from pyod.models.ecod import ECOD

    x, y = rows_of(name)
    direct = roc_auc_score(y, ECOD(n_jobs=1).fit(x).decision_scores_)

    ours = run(name, "ecod").auc_roc

    assert ours == pytest.approx(direct, abs=0.005)
    assert ours == pytest.approx(oracle()[(name, "ECOD", "raw")][0], abs=0.005)


@pytest.mark.parametrize("name", NAMES)
def test_hbos_ranks_as_pyods(name: str, run: Detect) -> None:
    from pyod.models.hbos import HBOS

    x, y = rows_of(name)
    direct = roc_auc_score(y, HBOS().fit(x).decision_scores_)

    ours = run(name, "hbos").auc_roc

    assert ours == pytest.approx(direct, abs=0.005)
    assert ours == pytest.approx(oracle()[(name, "HBOS", "raw")][0], abs=0.005)


@pytest.mark.parametrize("name", NAMES)
def test_hbos_in_standard_units_is_no_worse_than_pyods_on_standardised_columns(
    name: str, run: Detect
) -> None:
    measured, _ = oracle()[(name, "HBOS", "zscore")]

    assert run(name, {"name": "hbos", "params": {"scaling": "standard"}}).auc_roc >= measured - 0.005


@pytest.mark.parametrize("name", NAMES)
def test_inne_over_seeds_is_near_what_was_measured_of_pyods(name: str, run: Detect) -> None:
    mean, deviation = oracle()[(name, "INNE", "zscore")]

    ours = float(np.mean([run(name, "inne", seed=seed).auc_roc for seed in range(3)]))

    assert abs(ours - mean) <= 3 * max(deviation, 0.01)


@pytest.mark.parametrize("class_name", ["COPOD", "PCA"])
def test_a_pyod_class_scores_as_pyod_called_directly(class_name: str, run: Detect) -> None:
    import importlib

    module = importlib.import_module(f"pyod.models.{class_name.lower()}")
    x, _ = rows_of("breastw")
    direct = getattr(module, class_name)().fit(x).decision_scores_

    ours = run("breastw", f"pyod:{class_name}")

    np.testing.assert_allclose(ours.score, direct, rtol=1e-9)


def test_local_anomalies_belong_to_knn_and_global_ones_to_the_forest(run: Detect) -> None:
    local = {name: run("vowels", name).auc_roc for name in ("knn", "isolation_forest", "ensemble")}
    far = {name: run("cardio", name).auc_roc for name in ("knn", "isolation_forest", "ensemble")}

    assert local["knn"] > local["ensemble"] > local["isolation_forest"]
    assert far["isolation_forest"] > far["ensemble"] > far["knn"]
