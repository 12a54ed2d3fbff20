"""What does the platform weigh: import time, and an idle worker's memory and start, beside plain Celery's?

    python benchmarks/footprint.py [--rounds 5]

Import: a new interpreter each time, compiled files there, wall clock and CPU of the import alone. Worker: prefork
with two children, after it answered a ping; PSS (shared pages counted once) over the whole process tree. Ready:
from the start of the process to its answer. Systems take turns.
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

import psutil
from celery import Celery

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from pynomaly_tasks.embedded.redis_server import RedisServer  # noqa: E402
from pynomaly_tasks.telemetry import get_logger  # noqa: E402, F401  compiles the package

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
TIMED = """
import time
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


def weigh_worker(app: str, env: dict[str, str]) -> tuple[float, float, float]:
    """Ready after so many seconds; PSS of the tree and RSS of its largest process, in MiB."""
    control = Celery(broker=env["CELERY_BROKER_URL"])
    started_s = time.perf_counter()
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", app, "worker", "-c", "2", "-n", "weighed@localhost", "-l", "ERROR"],
        env=env, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not control.control.inspect(["weighed@localhost"], timeout=0.2).ping():
            if worker.poll() is not None:
                raise SystemExit(f"the worker of {app} ended with {worker.returncode}")
        ready_s = time.perf_counter() - started_s
        time.sleep(1.0)  # its children are forked by then
        parent = psutil.Process(worker.pid)
        tree = [parent, *parent.children(recursive=True)]
        memory = [process.memory_full_info() for process in tree]
        return ready_s, sum(each.pss for each in memory) / 2**20, max(each.rss for each in memory) / 2**20
    finally:
        worker.terminate()
        worker.wait(30)


def spread(values: list[float], digits: int) -> str:
    """Median (least-most)."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


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
            "CELERY_BROKER_URL": f"{server.url}/1",
            "CELERY_RESULT_BACKEND": f"{server.url}/2",
            "PYNOMALY_REDIS__URL": server.url,
            "PYNOMALY_DATA__DIRECTORY": str(Path(name) / "data"),
        }
        for code in IMPORTS.values():
            time_import(code, env)  # compiles
        imports = {label: [time_import(code, env) for code in [IMPORTS[label]]] for label in IMPORTS}
        for _ in range(rounds - 1):
            for label, code in IMPORTS.items():
                imports[label].append(time_import(code, env))
        for app in WORKERS.values():
            weigh_worker(app, env)  # compiles
        workers: dict[str, list[tuple[float, float, float]]] = {label: [] for label in WORKERS}
        for _ in range(rounds):
            for label, app in WORKERS.items():
                workers[label].append(weigh_worker(app, env))
        print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, {os.cpu_count()} cores, "
              f"load {os.getloadavg()[0]:.1f}, {server.flavour}, celery {version('celery')}. "
              f"Median (least-most) of {rounds} rounds.\n")  # fmt: skip
    print("| import | wall, s | CPU, s |\n|---|---|---|")
    for label, seen in imports.items():
        print(
            f"| `{label}` | {spread([wall for wall, _ in seen], 2)} | {spread([cpu for _, cpu in seen], 2)} |"
        )
    print(
        "\n| idle worker, 2 slots | ready, s | PSS of the tree, MiB | RSS of its largest process, MiB |\n|---|---|---|---|"
    )
    for label, weighed in workers.items():
        cells = [spread([each[at] for each in weighed], digits) for at, digits in ((0, 1), (1, 0), (2, 0))]
        print(f"| {label} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
