"""Files larger than the memory that duckdb is given are read, sampled and profiled in flat memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

N_ROWS = 2_000_000
MEMORY_LIMIT_MB = 96

# Run in a process of its own: the peak of this one would include what other tests used. getrusage would
# say the parent's peak, which a child inherits.
PEAK = """
def peak_mb():
    with open("/proc/self/status") as file:
        lines = file.read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
"""
READER = """
import json, sys
from pathlib import Path
from pynomaly_tasks.datasets import DatasetOpener

root, name, temporary = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
opener = DatasetOpener([root], 100, 10**9, int(sys.argv[4]), temporary)
import duckdb, pyarrow, numpy
before = peak_mb()
with opener.open(name) as dataset:
    total, n_rows = 0.0, 0
    for batch in dataset.batches(["a", "i"]):
        n_rows += batch.num_rows
        total += float(numpy.asarray(batch.column(1)).sum())
    sample = dataset.sample(10_000, 1)
    n_groups = dataset.query("SELECT count(*) FROM (SELECT i FROM data GROUP BY i)")[0][0]
    result = {"n_rows": n_rows, "total": total, "n_sampled": sample.num_rows, "n_groups": n_groups}
print(json.dumps({**result, "grown_mb": peak_mb() - before, "left": len(list(temporary.iterdir()))}))
"""


@pytest.fixture(scope="module")
def large_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One table of 2 million rows in three formats, 220 MB as CSV."""
    import duckdb

    folder = tmp_path_factory.mktemp("large")
    with duckdb.connect(config={"threads": 1, "memory_limit": "512MB"}) as connection:
        table = (
            "SELECT i, random() AS a, random() AS b, random() AS c, random() AS d, 'key ' || (i % 1000) AS k "
            f"FROM (SELECT range AS i FROM range({N_ROWS}))"
        )
        connection.execute(f"COPY ({table}) TO '{folder}/x.csv' (HEADER)")
        connection.execute(f"COPY (FROM '{folder}/x.csv') TO '{folder}/x.parquet'")
        connection.execute(f"COPY (FROM '{folder}/x.csv' LIMIT 400000) TO '{folder}/x.jsonl' (FORMAT json)")
    return folder


@pytest.mark.parametrize(("name", "n_rows"), [("x.csv", N_ROWS), ("x.parquet", N_ROWS), ("x.jsonl", 400_000)])
def test_file_larger_than_the_memory_limit_is_read_in_flat_memory(
    name: str, n_rows: int, large_files: Path, tmp_path: Path
) -> None:
    assert (large_files / "x.csv").stat().st_size > 1.8 * MEMORY_LIMIT_MB * 2**20

    answer = _run(READER, large_files, name, tmp_path / "temporary")

    assert answer["n_rows"] == answer["n_groups"] == n_rows
    assert answer["total"] == n_rows * (n_rows - 1) / 2
    assert answer["n_sampled"] == 10_000
    assert answer["left"] == 0
    assert answer["grown_mb"] < 3 * MEMORY_LIMIT_MB


PROFILER = """
import json, sys, types
from pathlib import Path
from pynomaly_tasks.datasets import DatasetOpener
from pynomaly_tasks.kinds.profile_dataset import ProfileDatasetRequest, perform

root, name, temporary = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
opener = DatasetOpener([root], 100, 10**9, int(sys.argv[4]), temporary)
context = types.SimpleNamespace(job_id="large", scratch=root, progress=lambda *_: None, checkpoint=lambda: None)
import duckdb, pyarrow, numpy
before = peak_mb()
detail = perform(context, ProfileDatasetRequest(dataset=name), types.SimpleNamespace(datasets=opener)).detail
print(json.dumps({"detail": detail, "grown_mb": peak_mb() - before, "left": len(list(temporary.iterdir()))}))
"""


def test_file_larger_than_the_memory_limit_is_profiled_in_flat_memory(
    large_files: Path, tmp_path: Path
) -> None:
    answer = _run(PROFILER, large_files, "x.csv", tmp_path / "temporary")

    columns = {column["name"]: column for column in answer["detail"]["columns"]}
    assert columns["i"]["quantiles"]["0.5"] == (N_ROWS - 1) / 2
    assert columns["i"]["n_distinct"] == pytest.approx(N_ROWS, rel=0.01)
    assert columns["a"]["mean"] == pytest.approx(0.5, abs=0.002)
    assert columns["k"]["n_distinct"] == 1_000
    assert answer["detail"]["n_duplicate_rows"] == 0
    assert answer["left"] == 0
    assert answer["grown_mb"] < 4 * MEMORY_LIMIT_MB


def _run(program: str, root: Path, name: str, temporary: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PEAK + program, str(root), name, str(temporary), str(MEMORY_LIMIT_MB)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
