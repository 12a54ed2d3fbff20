"""A long file is detected in with the memory that a short one takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

PART_ROWS = 250_000
N_PARTS = 8
#: What a file eight times as long may cost more: up to four million scores are sorted in memory.
GROWTH_MB = 90
# In a process of its own, after the libraries are loaded: their memory is no matter of the file.
WORK = """
import json, sys
from pathlib import Path
from pynomaly_tasks.datasets.opener import DatasetOpener
from pynomaly_tasks.domain.detection.catalog import DetectorSpec
from pynomaly_tasks.domain.detection.detection import DetectionTask
from pynomaly_tasks.domain.detection.run import detect
from pynomaly_tasks.domain.detection.threshold_rule import ThresholdRule

class Silent:
    def progress(self, current, total, status): pass
    def checkpoint(self): pass

def peak_mb():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

path, name, scratch = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
opener = DatasetOpener([path.parent], 100, 10**9, 96, scratch)
task = DetectionTask(detector=DetectorSpec(name=name), threshold=ThresholdRule(method="budget", value=3))
with opener.open(str(path)) as dataset:
    found = detect(dataset, task, scratch, Silent())
rows = sorted(anomaly.row for anomaly in found.anomalies)
print(json.dumps({"n_scored": found.n_scored, "rows": rows, "peak_mb": peak_mb()}))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same kind of rows, one part and eight parts long, with three planted rows each."""
    folder = tmp_path_factory.mktemp("long")
    paths = {}
    for n_parts in (1, N_PARTS):
        rng = np.random.default_rng(n_parts)
        paths[n_parts] = folder / f"{n_parts}.parquet"
        with pq.ParquetWriter(paths[n_parts], pa.schema([(name, pa.float64()) for name in "abcd"])) as writer:
            for part in range(n_parts):
                columns = {name: rng.normal(size=PART_ROWS) for name in "abcd"}
                if part == n_parts - 1:
                    for name in "abcd":
                        columns[name][[7, 1_000, PART_ROWS - 1]] = 12.0
                writer.write_table(pa.table(columns))
    return paths


def detected(path: Path, detector: str, scratch: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", WORK, str(path), detector, str(scratch)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=250,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("detector", ["isolation_forest", "ecod"])
def test_eight_times_the_rows_take_hardly_more_memory(
    detector: str, files: dict[int, Path], tmp_path: Path
) -> None:
    short = detected(files[1], detector, tmp_path)
    long = detected(files[N_PARTS], detector, tmp_path)

    first = (N_PARTS - 1) * PART_ROWS
    assert short["rows"] == [7, 1_000, PART_ROWS - 1]
    assert long["rows"] == [first + 7, first + 1_000, first + PART_ROWS - 1]
    assert long["n_scored"] == N_PARTS * PART_ROWS
    assert long["peak_mb"] - short["peak_mb"] < GROWTH_MB
