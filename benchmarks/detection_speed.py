"""What does a detection cost beside the same library call in a bare script?

    python -m benchmarks.detection_speed [--rows 1000000] [--columns 10] [--repeats 3] [detector ...]

"ours" is the whole work of a detection job on a Parquet file: sample, fit, score every row in batches, exact
threshold, scores written as Parquet, the top 20 explained, quantiles, plot. "bare" reads the same file into
memory, fits and scores it with the library, and labels by a quantile. Both run in a process of their own, imports
not counted, every library on one thread, taking turns. The ratio is ours to bare, of the medians.

Where a detector is our own, bare is the nearest thing a library has; that row compares methods, not overhead.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

SAMPLE_ROWS = 50_000
REFERENCE_ROWS = 2_000
MCD_ROWS = 10_000
#: Detector to what bare calls.
BARE = {
    "isolation_forest": "sklearn IsolationForest, fit on 50,000 rows",
    "knn": "sklearn NearestNeighbors, 2,000 reference rows",
    "lof": "sklearn LocalOutlierFactor(novelty), 2,000 reference rows",
    "mcd": "sklearn MinCovDet, fit on 10,000 rows",
    "mahalanobis": "sklearn EmpiricalCovariance, all rows",
    "hbos": "PyOD HBOS, all rows",
    "ecod": "PyOD ECOD, fit only, all rows",
    "inne": "PyOD INNE, fit on 50,000 rows",
}


class Silent:
    def progress(self, current: int, total: int, status: str) -> None:
        return None

    def checkpoint(self) -> None:
        return None


def write_rows(path: Path, n_rows: int, n_columns: int) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(n_columns, n_columns))
    x = rng.normal(size=(n_rows, n_columns)) @ mixing
    odd = rng.choice(n_rows, n_rows // 200, replace=False)
    x[odd] *= rng.uniform(2, 6, (len(odd), 1))
    pq.write_table(pa.table({f"c{j}": x[:, j] for j in range(n_columns)}), path)


def ours(detector: str, path: Path) -> Callable[[], Any]:
    import duckdb  # noqa: F401  # an import, so not part of what is measured
    import pyarrow.parquet  # noqa: F401

    from pynomaly_tasks.datasets.opener import DatasetOpener
    from pynomaly_tasks.domain.detection.build import build_detector
    from pynomaly_tasks.domain.detection.catalog import DetectorSpec
    from pynomaly_tasks.domain.detection.detection import DetectionTask
    from pynomaly_tasks.domain.detection.run import detect
    from pynomaly_tasks.domain.detection.threshold_rule import ThresholdRule

    _warm(lambda x: _fitted(build_detector(DetectorSpec(name=detector), 0), x))
    scratch = Path(tempfile.mkdtemp(dir=path.parent))
    opener = DatasetOpener([path.parent], 2_000, 10**9, 1_024, scratch)
    task = DetectionTask(
        detector=DetectorSpec(name=detector), threshold=ThresholdRule(method="contamination", value=0.01)
    )

    def work() -> Any:
        with opener.open(str(path)) as dataset:
            return detect(dataset, task, scratch, Silent())

    return work


def _fitted(model: Any, x: Any) -> None:
    model.fit_rows(len(x))
    model.fit(x, lambda: None)
    model.score(x)


def _warm(run: Callable[[Any], None]) -> None:
    """Imports, and compilation where there is some, outside the measured time."""
    import numpy as np

    run(np.random.default_rng(0).normal(size=(300, 3)))


def bare(detector: str, path: Path) -> Callable[[], Any]:
    import numpy as np
    import pyarrow.parquet as pq

    score = _library(detector)
    _warm(lambda x: score(x))

    def work() -> Any:
        table = pq.read_table(path)
        x = np.column_stack([table[name].to_numpy() for name in table.column_names])
        scores = score(x)
        return scores > np.quantile(scores, 0.99)

    return work


def _library(detector: str) -> Callable[[Any], Any]:
    import numpy as np

    def part(x: Any, n_rows: int) -> Any:
        if n_rows >= len(x):
            return x
        return x[np.random.default_rng(0).choice(len(x), n_rows, replace=False)]

    def standard(x: Any, rows: Any) -> tuple[Any, Any]:
        mean, deviation = rows.mean(axis=0), rows.std(axis=0)
        return (x - mean) / deviation, (rows - mean) / deviation

    if detector == "isolation_forest":
        from sklearn.ensemble import IsolationForest

        return lambda x: (
            -IsolationForest(random_state=0, max_samples=256, n_jobs=1)
            .fit(part(x, SAMPLE_ROWS))
            .score_samples(x)
        )
    if detector == "knn":
        from sklearn.neighbors import NearestNeighbors

        def knn(x: Any) -> Any:
            scaled, rows = standard(x, part(x, REFERENCE_ROWS))
            return NearestNeighbors(n_neighbors=5, n_jobs=1).fit(rows).kneighbors(scaled)[0][:, -1]

        return knn
    if detector == "lof":
        from sklearn.neighbors import LocalOutlierFactor

        def lof(x: Any) -> Any:
            scaled, rows = standard(x, part(x, REFERENCE_ROWS))
            return -LocalOutlierFactor(n_neighbors=20, novelty=True, n_jobs=1).fit(rows).score_samples(scaled)

        return lof
    if detector == "mcd":
        from sklearn.covariance import MinCovDet

        return lambda x: MinCovDet(random_state=0).fit(part(x, MCD_ROWS)).mahalanobis(x)
    if detector == "mahalanobis":
        from sklearn.covariance import EmpiricalCovariance

        return lambda x: EmpiricalCovariance().fit(x).mahalanobis(x)
    if detector == "hbos":
        from pyod.models.hbos import HBOS

        return lambda x: HBOS().fit(x).decision_scores_
    if detector == "ecod":
        from pyod.models.ecod import ECOD

        return lambda x: ECOD(n_jobs=1).fit(x).decision_scores_
    from pyod.models.inne import INNE

    def inne(x: Any) -> Any:
        scaled, rows = standard(x, part(x, SAMPLE_ROWS))
        return INNE(random_state=0).fit(rows).decision_function(scaled)

    return inne


def measure(side: str, detector: str, path: Path) -> None:
    """Run one side in this process and print what it took, as JSON."""
    work = ours(detector, path) if side == "ours" else bare(detector, path)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    print(
        json.dumps(
            {
                "wall_s": time.perf_counter() - wall,
                "cpu_s": time.process_time() - cpu,
                "peak_mb": peak_mb(),
            }
        )
    )


def peak_mb() -> float:
    """Highest memory of this process; getrusage would say the parent's, which a child inherits."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def in_a_process(side: str, detector: str, path: Path) -> dict[str, float]:
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "benchmarks.detection_speed",
            "--measure",
            side,
            "--file",
            str(path),
            detector,
        ],
        env={**os.environ, **dict.fromkeys(threads, "1")},
        stdout=subprocess.PIPE,
        check=True,
    )
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("detectors", nargs="*", default=list(BARE), choices=list(BARE))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", choices=("ours", "bare"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure, args.detectors[0], args.file)
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "rows.parquet"
        write_rows(path, args.rows, args.columns)
        versions = ", ".join(
            f"{name} {version(name)}" for name in ("scikit-learn", "pyod", "numpy", "duckdb")
        )
        print(f"{args.rows:,} x {args.columns} rows, {path.stat().st_size / 1e6:.0f} MB of Parquet")
        print(
            f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {versions}; median (lowest - highest)\n"
        )
        print("| detector | ours, s | bare, s | wall ratio | CPU ratio | peak MB, ours / bare | bare is |")
        print("|---|---|---|---|---|---|---|")
        for detector in args.detectors:
            runs: dict[str, list[dict[str, float]]] = {"ours": [], "bare": []}
            for _ in range(args.repeats):
                for side, results in runs.items():
                    results.append(in_a_process(side, detector, path))
            print(_line(detector, runs), flush=True)


def _line(detector: str, runs: dict[str, list[dict[str, float]]]) -> str:
    def median(side: str, what: str) -> float:
        return statistics.median(run[what] for run in runs[side])

    def spread(side: str) -> str:
        walls = [run["wall_s"] for run in runs[side]]
        return f"{median(side, 'wall_s'):.2f} ({min(walls):.2f} - {max(walls):.2f})"

    wall = median("ours", "wall_s") / median("bare", "wall_s")
    cpu = median("ours", "cpu_s") / median("bare", "cpu_s")
    memory = f"{median('ours', 'peak_mb'):.0f} / {median('bare', 'peak_mb'):.0f}"
    return (
        f"| {detector} | {spread('ours')} | {spread('bare')} | {wall:.2f} | {cpu:.2f} "
        f"| {memory} | {BARE[detector]} |"
    )


if __name__ == "__main__":
    main()
