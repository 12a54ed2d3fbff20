"""What does a detection cost as a job, beside the same library call in a bare script?

    python -m benchmarks.detection_job [--rows 1000000] [--columns 10] [--rounds 3] [detector ...]

Job: from `.delay()` to the return of `.get()`, on a worker that is up, with everything a job leaves: scores as
Parquet, threshold, the anomalies explained, the row, the result. Bare: a script, from its start to its end, imports
and reading the same Parquet file included, which fits, scores every row and labels by a quantile, and keeps nothing.
Every library has one thread. They take turns; the ratio is of the medians.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.table import spread
from pynomaly_tasks import detect_anomalies
from pynomaly_tasks.embedded.redis_server import RedisServer
from support.stack import Stack, client

READ = """
import sys
import numpy as np
import pyarrow.parquet as pq
table = pq.read_table(sys.argv[1])
X = np.column_stack([column.to_numpy() for column in table.columns])
"""
LABEL = "\nlabels = scores >= np.quantile(scores, 0.99)\nprint(int(labels.sum()))\n"
#: Detector to the script that calls the library, and its name in the table.
BARE = {
    "isolation_forest": (
        "scikit-learn IsolationForest, fit on 50,000 rows",
        READ
        + "from sklearn.ensemble import IsolationForest\n"
        + "sample = X[np.random.default_rng(0).choice(len(X), 50_000, replace=False)]\n"
        + "forest = IsolationForest(n_estimators=100, max_samples=256, random_state=0, n_jobs=1).fit(sample)\n"
        + "scores = np.concatenate([-forest.score_samples(X[i:i + 50_000]) for i in range(0, len(X), 50_000)])"
        + LABEL,
    ),
    "ecod": (
        "PyOD ECOD, all rows",
        READ + "from pyod.models.ecod import ECOD\nscores = ECOD().fit(X).decision_scores_" + LABEL,
    ),
    "mahalanobis": (
        "scikit-learn EmpiricalCovariance, all rows",
        READ
        + "from sklearn.covariance import EmpiricalCovariance\nscores = EmpiricalCovariance().fit(X).mahalanobis(X)"
        + LABEL,
    ),
}
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}


def write_table(path: Path, n_rows: int, n_columns: int) -> None:
    """Gaussian columns, one row in a hundred moved away."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    values = rng.standard_normal((n_rows, n_columns))
    values[rng.choice(n_rows, n_rows // 100, replace=False)] += 4.0
    pq.write_table(pa.table({f"x{i}": values[:, i] for i in range(n_columns)}), path)


def bare_s(detector: str, path: Path) -> float:
    """Of the script, start to end."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | ONE_THREAD
    started_s = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", BARE[detector][1], path], check=True, stdout=subprocess.DEVNULL, env=env
    )
    return time.perf_counter() - started_s


def job_s(detector: str, path: Path) -> float:
    """Of the job, as its caller sees it."""
    started_s = time.perf_counter()
    detect_anomalies.delay(str(path), detector, contamination=0.01).get(timeout=600)
    return time.perf_counter() - started_s


def main() -> None:
    """Measure and print."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("detectors", nargs="*", help=f"of {', '.join(BARE)}; none: all")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    detectors = options.detectors or list(BARE)
    jobs: dict[str, list[float]] = {name: [] for name in detectors}
    bare: dict[str, list[float]] = {name: [] for name in detectors}
    with (
        tempfile.TemporaryDirectory(prefix="pynomaly-bench-") as name,
        RedisServer(Path(name) / "redis") as server,
    ):
        stack = Stack(Path(name) / "stack", server)
        stack.env = {
            **{key: value for key, value in stack.env.items() if not key.startswith("PYNOMALY_JOBS__")},
            **ONE_THREAD,
        }
        path = stack.data / "table.parquet"
        write_table(path, options.rows, options.columns)
        with client(stack):
            try:
                stack.worker("workers.detection", "-c", "1")
                for number in range(options.rounds):
                    for detector in detectors:
                        bare[detector].append(bare_s(detector, path))
                        jobs[detector].append(job_s(detector, path))
                        print(
                            number + 1,
                            detector,
                            bare[detector][-1],
                            jobs[detector][-1],
                            file=sys.stderr,
                            flush=True,
                        )
            finally:
                stack.close()
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, {os.cpu_count()} cores, "
          f"load {os.getloadavg()[0]:.1f}, "
          + ", ".join(f"{package} {version(package)}" for package in ("celery", "scikit-learn", "pyod", "duckdb"))
          + f". {options.rows:,} x {options.columns}; median (least-most) of {options.rounds} rounds.\n")  # fmt: skip
    print("| detector | job, s | bare script, s | job / bare | bare is |\n|---|---|---|---|---|")
    for detector in detectors:
        cells = [spread(values, 2) for values in (jobs[detector], bare[detector])]
        ratio = statistics.median(jobs[detector]) / statistics.median(bare[detector])
        print(f"| {detector} | {' | '.join(cells)} | {ratio:.2f} | {BARE[detector][0]} |")


if __name__ == "__main__":
    main()
