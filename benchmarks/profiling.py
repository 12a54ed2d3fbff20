"""Profiling of 5 million rows and 10 columns beside duckdb's SUMMARIZE, polars and pandas, in one run.

    python -m benchmarks.profiling [--rows 5000000] [--repeat 3]

Each contender runs in a process of its own with one thread; CPU seconds and peak memory are those of
that process, the import of its library left out. polars and pandas are measured where they are
installed. All read the same Parquet file; they do less than a profile does (no histograms, no
correlations, no duplicate rows, no most frequent values).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

MEASURED = """
import json, os, resource, sys, time
path, scratch = sys.argv[1], sys.argv[2]
{imports}
cpu, wall = time.process_time(), time.perf_counter()
{work}
with open("/proc/self/status") as file:
    peak_mb = next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
print(json.dumps({{"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall, "peak_mb": peak_mb}}))
"""

PROFILE = (
    """
import types
from pathlib import Path
import duckdb, numpy, pyarrow.parquet, orjson
from pynomaly_tasks.datasets import DatasetOpener
from pynomaly_tasks.kinds.profile_dataset import ProfileDatasetRequest, perform
""",
    """
opener = DatasetOpener([Path(path).parent], 100, 10**9, 1024, Path(scratch) / "temporary")
context = types.SimpleNamespace(scratch=Path(scratch), progress=lambda *_: None, checkpoint=lambda: None)
perform(context, ProfileDatasetRequest(dataset=path), types.SimpleNamespace(datasets=opener))
""",
)
SUMMARIZE = (
    "import duckdb",
    """
with duckdb.connect(config={"threads": 1, "memory_limit": "1GiB", "temp_directory": scratch}) as connection:
    connection.execute(f"SUMMARIZE FROM '{path}'").fetchall()
""",
)
POLARS = (
    "import os; os.environ['POLARS_MAX_THREADS'] = '1'\nimport polars",
    """
frame = polars.read_parquet(path)
frame.describe(percentiles=(0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99))
frame.select(polars.all().n_unique())
""",
)
PANDAS = (
    "import pandas",
    """
frame = pandas.read_parquet(path)
frame.describe(percentiles=[0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99], include="all")
frame.nunique()
""",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    contenders = {"profile_dataset": PROFILE, "duckdb SUMMARIZE": SUMMARIZE}
    if importlib.util.find_spec("polars"):
        contenders["polars"] = POLARS
    if importlib.util.find_spec("pandas"):
        contenders["pandas"] = PANDAS
    with tempfile.TemporaryDirectory() as folder:
        path = _table(Path(folder), arguments.rows)
        # Round by round, so that a neighbour's load falls on all alike.
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
        for _ in range(arguments.repeat):
            for name, (imports, work) in contenders.items():
                runs[name].append(_run(MEASURED.format(imports=imports, work=work), path, folder))
    _print(runs, arguments.rows)


def _table(folder: Path, n_rows: int) -> Path:
    import duckdb

    path = folder / "table.parquet"
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SELECT setseed(0.5)")
        connection.execute(
            f"""COPY (SELECT i AS id, random() AS uniform, sqrt(-2 * ln(1 - random())) * cos(6.283185 * random())
            AS normal, -ln(1 - random()) AS exponential, floor(random() * 100)::INTEGER AS percent,
            CASE WHEN random() < 0.1 THEN NULL ELSE random() * 1e6 END AS gaps,
            'city ' || floor(random() * 50)::INTEGER AS city, md5(i::VARCHAR) AS token,
            TIMESTAMP '2014-01-01' + INTERVAL (i) SECOND AS at, random() < 0.3 AS flag
            FROM (SELECT range AS i FROM range({n_rows}))) TO '{path}'"""
        )
    return path


def _run(program: str, path: Path, folder: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), folder], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _print(runs: dict[str, list[dict[str, float]]], n_rows: int) -> None:
    reference = statistics.median(run["cpu_s"] for run in runs["duckdb SUMMARIZE"])
    print(f"{n_rows:,} rows x 10 columns, Parquet; one thread; median (least to most) of each")
    print(f"Python {platform.python_version()}, duckdb {version('duckdb')}, numpy {version('numpy')}")
    print(f"{'':18} {'CPU s':>20} {'of SUMMARIZE':>13} {'elapsed s':>10} {'peak MB':>8}")
    for name, measured in runs.items():
        cpu = sorted(run["cpu_s"] for run in measured)
        middle = statistics.median(cpu)
        spread = f"{middle:.1f} ({cpu[0]:.1f} to {cpu[-1]:.1f})"
        elapsed = statistics.median(run["wall_s"] for run in measured)
        peak = max(run["peak_mb"] for run in measured)
        print(f"{name:18} {spread:>20} {middle / reference:>12.2f}x {elapsed:>10.1f} {peak:>8.0f}")


if __name__ == "__main__":
    main()
