"""How well do our detectors rank the anomalies of labelled tables, beside published figures?

    python -m benchmarks.detection_quality [--seeds 5]

AUC-ROC x 100 on the six ADBench tables in examples/data, default parameters, mean over seeds where a detector
draws at random. Published: "On Diffusion Modeling for Anomaly Detection" (Livernoche et al., ICLR 2024, tables
of the unsupervised setting, mean of five seeds), in benchmarks/data/adbench_published.csv. Two things keep the
columns from being equal: their tables are standardised and their knn, for one, has other parameters.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

from pynomaly_tasks.datasets.opener import DatasetOpener
from pynomaly_tasks.domain.detection.catalog import DetectorSpec
from pynomaly_tasks.domain.detection.detection import DetectionTask
from pynomaly_tasks.domain.detection.run import detect
from pynomaly_tasks.domain.detection.threshold_rule import ThresholdRule

TABLES = Path(__file__).parents[1] / "examples" / "data" / "adbench"
NAMES = ("breastw", "cardio", "glass", "thyroid", "vowels", "wine")
#: Our detector to the published column; None where nobody published it.
DETECTORS: Mapping[str, str | None] = {
    "isolation_forest": "IForest",
    "ecod": "ECOD",
    "hbos": "HBOS",
    "mahalanobis": None,
    "knn": "KNN",
    "lof": "LOF",
    "inne": None,
    "mcd": "MCD",
    "one_class_svm": "OCSVM",
    "ensemble": None,
}
SEEDED = {"isolation_forest", "inne", "mcd", "ensemble"}


class Silent:
    def progress(self, current: int, total: int, status: str) -> None:
        return None

    def checkpoint(self) -> None:
        return None


def auc_roc(dataset: Any, detector: str, seed: int, scratch: Path) -> float:
    task = DetectionTask(
        detector=DetectorSpec(name=detector),
        threshold=ThresholdRule(method="contamination", value=0.05),
        label_column="label",
        seed=seed,
        top_n=1,
    )
    found = detect(dataset, task, scratch, Silent())
    assert found.evaluation is not None
    assert found.evaluation.auc_roc is not None
    return 100 * found.evaluation.auc_roc


def published() -> Mapping[str, Mapping[str, str]]:
    with (Path(__file__).parent / "data" / "adbench_published.csv").open() as file:
        return {row["dataset"]: row for row in csv.DictReader(file)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    n_seeds = parser.parse_args().seeds
    versions = ", ".join(f"{name} {version(name)}" for name in ("scikit-learn", "numpy"))
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {versions}; AUC-ROC x 100, {n_seeds} seeds (+- deviation), published in ()\n"
    )
    print("| detector |" + "".join(f" {name} |" for name in NAMES) + " mean |")
    print("|---|" + "---|" * (len(NAMES) + 1))
    figures = published()
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        opener = DatasetOpener([TABLES], 2_000, 10**6, 512, scratch)
        datasets = {name: opener.open(str(next(TABLES.glob(f"{name}.*")))) for name in NAMES}
        for detector, column in DETECTORS.items():
            cells, means = [], []
            for name, dataset in datasets.items():
                seeds = range(n_seeds if detector in SEEDED else 1)
                values = [auc_roc(dataset, detector, seed, scratch) for seed in seeds]
                means.append(mean(values))
                spread = f" +- {pstdev(values):.1f}" if len(values) > 1 else ""
                cells.append(
                    f"{mean(values):.1f}{spread}" + (f" ({figures[name][column]})" if column else "")
                )
            theirs = f" ({mean(float(figures[name][column]) for name in NAMES):.1f})" if column else ""
            print(f"| {detector} | " + " | ".join(cells) + f" | {mean(means):.1f}{theirs} |", flush=True)
        for dataset in datasets.values():
            dataset.close()


if __name__ == "__main__":
    main()
