"""What does the platform weigh: import time, and an idle worker's memory and start, beside plain Celery's?

    python -m benchmarks.footprint [--rounds 5]

Import: a new interpreter each time, compiled files there, wall clock and CPU of the import alone. Worker: ready is
from the start of the process to its answer to a ping; first job is to the end of a job that waited for it in the
queue (a detection by isolation forest on 200 rows; a notification), in another start. Memory: PSS (shared pages
counted once) over the whole process tree, idle, once it has stopped changing. Systems take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
from celery import Celery

from benchmarks import ROOT
from benchmarks.table import spread
from pynomaly_tasks.bootstrap import build_platform
from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.settings import load_settings
from pynomaly_tasks.telemetry import get_logger  # noqa: F401  compiles the package

IMPORTS = {
    "import celery, redis, pydantic": "from celery import Celery, Task; import redis, pydantic",
    "import pynomaly_tasks": "import pynomaly_tasks",
    "from pynomaly_tasks import detect_anomalies": "from pynomaly_tasks import detect_anomalies",
    "the same, and what its first call loads": (
        "from pynomaly_tasks import detect_anomalies, current_platform; p = current_platform(); p.submitter"
    ),
}
WORKERS = {
    "plain Celery (two trivial tasks)": "support.tiny_celery_app",
    "workers.all": "workers.all",
    "workers.detection": "workers.detection",
    "workers.notifications (threads)": "workers.notifications",
}
PLAIN = ("support.tiny_celery_app",)  #: has its URLs from the environment, where ours refuse them
SLOTS = (2, 8)
#: What each worker's first job is.
JOBS = {
    "workers.all": ("detect_anomalies", {"dataset": "table.csv", "detector": "isolation_forest"}),
    "workers.detection": ("detect_anomalies", {"dataset": "table.csv", "detector": "isolation_forest"}),
    "workers.notifications": ("send_notification", {"body": "x"}),
}
TIMED = """
import time
from benchmarks import ROOT
wall, cpu = time.perf_counter(), time.process_time()
{code}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def time_import(code: str, env: dict[str, str]) -> tuple[float, float]:
    """Wall clock and CPU, in seconds."""
    done = subprocess.run(
        [sys.executable, "-c", TIMED.format(code=code)],
        env=env,
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    wall_s, cpu_s = done.stdout.split()
    return float(wall_s), float(cpu_s)


@contextmanager
def started(app: str, n_slots: int, env: dict[str, str]) -> Iterator[tuple[psutil.Process, float, float]]:
    """A worker that answers pings, after how many seconds it did, and the CPU that its tree had used."""
    broker_url, results_url = (f"{env['PYNOMALY_REDIS__URL']}/{database}" for database in (1, 2))
    control = Celery(broker=broker_url).control
    plain = {"CELERY_BROKER_URL": broker_url, "CELERY_RESULT_BACKEND": results_url} if app in PLAIN else {}
    started_s = time.perf_counter()
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", app, "worker", "-c", str(n_slots), "-n", "weighed@localhost", "-l", "ERROR"],
        env={**env, **plain}, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not control.inspect(["weighed@localhost"], timeout=0.1).ping():
            if worker.poll() is not None:
                raise SystemExit(f"the worker of {app} ended with {worker.returncode}")
        ready_s = time.perf_counter() - started_s
        parent = psutil.Process(worker.pid)
        used = [each.cpu_times() for each in (parent, *parent.children())]
        yield parent, ready_s, sum(each.user + each.system for each in used)
    finally:
        worker.terminate()
        worker.wait(30)


def weigh(parent: psutil.Process) -> tuple[float, float]:
    """PSS of the tree and RSS of its largest process, in MiB."""
    while True:
        try:
            memory = [each.memory_full_info() for each in (parent, *parent.children(recursive=True))]
        except psutil.NoSuchProcess:
            continue  # a child was replaced meanwhile
        return sum(each.pss for each in memory) / 2**20, max(each.rss for each in memory) / 2**20


def weigh_worker(app: str, n_slots: int, env: dict[str, str]) -> tuple[float, float, float, float]:
    """Ready after so many seconds, and of CPU; PSS of the tree and RSS of its largest process, in MiB."""
    with started(app, n_slots, env) as (parent, ready_s, cpu_s):
        looks: list[tuple[float, float]] = []
        while len(looks) < 8 or max(pss for pss, _ in looks[-8:]) > 1.01 * min(pss for pss, _ in looks[-8:]):
            time.sleep(0.5)
            looks.append(weigh(parent))
        return ready_s, cpu_s, *looks[-1]


def time_first_job(app: str, env: dict[str, str]) -> float:
    """Seconds from the start of the worker to the end of the job that waits for it."""
    platform = build_platform(load_settings())
    kind, request = JOBS[app]
    if "dataset" in request:
        request = {**request, "dataset": str(platform.settings.data.roots[0] / request["dataset"])}
    job = platform.submit(kind, request)
    started_at = datetime.now(UTC)
    with started(app, 2, env):
        while not (job := platform.store.get_job(job.id)).state.is_final:
            time.sleep(0.01)
    platform.close()
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.finished_at is not None
    return (job.finished_at - started_at).total_seconds()


def main() -> None:
    """Measure and print."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with (
        tempfile.TemporaryDirectory(prefix="pynomaly-bench-") as name,
        RedisServer(Path(name) / "redis") as server,
    ):
        env = {
            **{key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"},
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
            "PYTHONPYCACHEPREFIX": str(Path(name) / "pyc"),
            "PYNOMALY_REDIS__URL": server.url,
            "PYNOMALY_DATA__DIRECTORY": str(Path(name) / "data"),
            "PYNOMALY_DATA__ROOTS": json.dumps([name]),
        }
        rows = [f"{row % 17},{row % 13}" for row in range(200)]
        (Path(name) / "table.csv").write_text("\n".join(["a,b", *rows, ""]))
        os.environ.update({name: value for name, value in env.items() if name.startswith("PYNOMALY_")})
        for code in IMPORTS.values():
            time_import(code, env)  # compiles
        imports = {label: [time_import(code, env) for code in [IMPORTS[label]]] for label in IMPORTS}
        for _ in range(rounds - 1):
            for label, code in IMPORTS.items():
                imports[label].append(time_import(code, env))
        for app in WORKERS.values():
            time_first_job(app, env) if app in JOBS else weigh_worker(app, 2, env)  # compiles
        workers: dict[tuple[str, int], list[tuple[float, float, float, float]]] = defaultdict(list)
        first_jobs: dict[str, list[float]] = defaultdict(list)
        for _ in range(rounds):
            for app in WORKERS.values():
                for n_slots in SLOTS:
                    workers[app, n_slots].append(weigh_worker(app, n_slots, env))
            for app in JOBS:
                first_jobs[app].append(time_first_job(app, env))
        print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, {os.cpu_count()} cores, "
              f"load {os.getloadavg()[0]:.1f}, {server.flavour}, celery {version('celery')}. "
              f"Median (least-most) of {rounds} rounds.\n")  # fmt: skip
    print("| import | wall, s | CPU, s |\n|---|---|---|")
    for label, seen in imports.items():
        print(
            f"| `{label}` | {spread([wall for wall, _ in seen], 2)} | {spread([cpu for _, cpu in seen], 2)} |"
        )
    print(
        "\n| idle worker | slots | ready, s | its CPU, s | first job done, s | PSS of the tree, MiB "
        "| RSS of its largest process, MiB |\n|---|---|---|---|---|---|---|"
    )
    for label, app in WORKERS.items():
        for n_slots in SLOTS:
            ready, cpu, pss, rss = (
                spread([each[at] for each in workers[app, n_slots]], digits)
                for at, digits in ((0, 1), (1, 1), (2, 0), (3, 0))
            )
            first = spread(first_jobs[app], 1) if n_slots == SLOTS[0] and app in first_jobs else "-"
            print(f"| {label} | {n_slots} | {ready} | {cpu} | {first} | {pss} | {rss} |")


if __name__ == "__main__":
    main()
