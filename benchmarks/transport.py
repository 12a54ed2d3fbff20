"""What does a task cost on our transport, beside plain Celery, other task queues, and bare Redis?

    python -m benchmarks.transport [--rounds 3] [--tasks 5000] [contestant ...]

One run on one loopback Redis (AOF everysec), the contestants in turn in each round, in processes of their own; the
table has medians and, in brackets, least and most. A task gets 1 KB of JSON and only counts itself. Needs
`make bench`'s packages.

- Publishing: one call after the other from one process; then many with what the contestant has for many.
- Start: on idle workers, from before the call to the task's first line, one call in 30 ms, 60 in each round.
- End to end: ready workers are stopped, the queue is filled, and the clock and their CPU run from where they go on
  until all have run. Results are off; plain Celery "tuned" and ours acknowledge late and may hold 64 messages each.
- Memory: PSS of all its idle processes.

Rates follow what else the machine does; CPU and ratios within the run less.
"""

from __future__ import annotations

import argparse
import importlib
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import ROOT, peers
from benchmarks.transport_results import Results

PEERS_DIRECTORY = Path(__file__).resolve().parent / "transport_peers"
PACKAGES = ("celery", "kombu", "redis", "dramatiq", "taskiq", "taskiq-redis", "saq", "rq", "huey")
TIMEOUT_S = 60.0
N_WARM = 20
N_STARTS = 60


class MeasuringFailed(Exception):
    """A contestant did not do its work; the others are measured all the same."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A module of `transport_peers` with its environment."""

    module: str
    env: dict[str, str] = field(default_factory=dict)
    publishes: bool = True  #: measured as a publisher too; of those alike one is enough
    works: bool = True
    share: float = 1.0  #: of the tasks, for slow ones


def _celery(
    pool: tuple[str, int, int], *, publishes: bool = False, works: bool = True, **env: str
) -> Contestant:
    return Contestant(
        module="celery_peer", env={"BENCH_POOL": json.dumps(pool), **env}, publishes=publishes, works=works
    )


PREFORK, THREADS, SOLO = ("prefork", 2, 1), ("threads", 8, 1), ("solo", 1, 2)
TUNED = {"BENCH_TUNED": "1"}
OURS = {**TUNED, "BENCH_OURS": "with amqp"}
CONTESTANTS = {
    "Celery, its defaults, prefork": _celery(PREFORK, publishes=True),
    "Celery tuned, prefork": _celery(PREFORK, publishes=True, **TUNED),
    "Celery tuned, 8 threads": _celery(THREADS, **TUNED),
    "Celery tuned, 2 solo": _celery(SOLO, **TUNED),
    "ours, transport alone": _celery(PREFORK, publishes=True, works=False, **TUNED, BENCH_OURS="alone"),
    "ours, prefork": _celery(PREFORK, publishes=True, **OURS),
    "ours, 8 threads": _celery(THREADS, **OURS),
    "ours, 2 solo": _celery(SOLO, **OURS),
    "dramatiq, 8 threads": Contestant(module="dramatiq_peer", env={"BENCH_POOL": "[1, 8]"}),
    "dramatiq, 2 x 4 threads": Contestant(module="dramatiq_peer", env={"BENCH_POOL": "[2, 4]"}, publishes=False),
    "taskiq, 2 processes": Contestant(module="taskiq_peer"),
    "saq, 2 processes": Contestant(module="saq_peer"),
    "rq, 2 processes": Contestant(module="rq_peer", share=0.05),
    "huey, 2 processes": Contestant(module="huey_peer"),
    "bare redis-py, 2 processes": Contestant(module="bare_peer"),
}  # fmt: skip


# ---- the publisher, in a process of its own


def publish(module_name: str, what: str, n_tasks: int) -> dict[str, object]:
    """Runs in the publisher's process."""
    from benchmarks.transport_peers import probe

    module = importlib.import_module(module_name)
    many = getattr(module, {"many": "submit_many", "more": "submit_more"}.get(what, ""), None)
    if what in ("many", "more") and many is None:
        return {}
    for _ in range(N_WARM):
        module.submit()  # connections, lazy imports
    if what == "starts":
        return {"waits_ms": _starts(module, n_tasks, probe)}
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    if many is not None:
        many(n_tasks)
    else:
        for _ in range(n_tasks):
            module.submit()
    wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
    return {"rate": n_tasks / wall_s, "cpu_us": 1e6 * cpu_s / n_tasks}


def _starts(module: object, n_tasks: int, probe: object) -> list[float]:
    directory = Path(os.environ["BENCH_PROBES"])
    _settled(directory, probe)
    waits_ms = []
    for _ in range(n_tasks):
        n_before = probe.read(directory)[0]
        called_at = time.time()
        module.submit()
        end = time.monotonic() + TIMEOUT_S
        while probe.read(directory)[0] == n_before and time.monotonic() < end:
            time.sleep(0.002)
        waits_ms.append(1e3 * (probe.read(directory)[1] - called_at))
        time.sleep(0.03)
    return waits_ms


def _settled(directory: Path, probe: object) -> None:
    n_ran, since = -1, time.monotonic()
    while time.monotonic() - since < 0.5:
        if probe.read(directory)[0] != n_ran:
            n_ran, since = probe.read(directory)[0], time.monotonic()
        time.sleep(0.02)


def run_publisher(contestant: Contestant, what: str, n_tasks: int, env: dict[str, str]) -> dict:
    """The same, from here."""
    command = [sys.executable, "-m", "benchmarks.transport", "--publish", contestant.module, what]
    command += ["--tasks", str(n_tasks)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=PEERS_DIRECTORY, check=False)
    if done.returncode:
        raise MeasuringFailed(f"{contestant.module} {what} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# ---- the workers


@contextmanager
def workers(contestant: Contestant, env: dict[str, str], directory: Path) -> Iterator[list[subprocess.Popen]]:
    """Its workers; killed in the end, with all that they started."""
    import psutil

    code = f"import json, {contestant.module} as m; print(json.dumps(m.WORKERS))"
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=PEERS_DIRECTORY, stdout=subprocess.PIPE, check=True)  # fmt: skip
    with (directory / "workers.log").open("ab") as log:
        started = [
            subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=PEERS_DIRECTORY, start_new_session=True)
            for command in json.loads(done.stdout)
        ]  # fmt: skip
    try:
        yield started
    finally:
        everyone = tree(started)
        for process in everyone:
            with suppress(psutil.NoSuchProcess):  # it ended with its parent
                process.kill()
        for process in started:
            process.wait()


def tree(started: list[subprocess.Popen]) -> list:
    """All processes of the workers."""
    import psutil

    parents = [psutil.Process(process.pid) for process in started]
    return [each for parent in parents for each in (parent, *parent.children(recursive=True))]


def cpu_s(started: list[subprocess.Popen]) -> float:
    """CPU of the process trees so far, of children that ended too."""
    total = 0.0
    for process in tree(started):
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


def wait_for(probes: Path, n_tasks: int, started: list[subprocess.Popen], log: Path) -> None:
    """Until so many tasks have run."""
    from benchmarks.transport_peers import probe

    end = time.monotonic() + TIMEOUT_S
    while (n_ran := probe.read(probes)[0]) < n_tasks:
        if time.monotonic() > end or any(process.poll() is not None for process in started):
            raise MeasuringFailed(f"only {n_ran} of {n_tasks} tasks ran\n{log.read_text()[-2000:]}")
        time.sleep(0.002)


def measure_worker(contestant: Contestant, env: dict[str, str], directory: Path, n_tasks: int) -> tuple[dict[str, float], list[float]]:  # fmt: skip
    """One round of one contestant's workers."""
    from benchmarks.transport_peers import probe

    probes, log = Path(env["BENCH_PROBES"]), directory / "workers.log"
    with workers(contestant, env, directory) as started:
        run_publisher(contestant, "one", N_WARM, env)
        wait_for(probes, 2 * N_WARM, started, log)
        time.sleep(1.0)  # both processes are up and wait
        memory_mb = sum(process.memory_full_info().pss for process in tree(started)) / 1e6
        waits_ms = run_publisher(contestant, "starts", N_STARTS, env)["waits_ms"]
        for process in tree(started):
            process.suspend()
        n_before = probe.read(probes)[0]
        filled = run_publisher(contestant, "many", n_tasks, env)
        if not filled:
            run_publisher(contestant, "one", n_tasks, env)
        before_s, began_s = cpu_s(started), time.perf_counter()
        for process in tree(started):
            process.resume()
        wait_for(probes, n_before + n_tasks + N_WARM, started, log)
        wall_s, worker_s = time.perf_counter() - began_s, cpu_s(started) - before_s
    row = {
        "run_rate": (n_tasks + N_WARM) / wall_s,
        "run_cpu_us": 1e6 * worker_s / (n_tasks + N_WARM),
        "memory_mb": memory_mb,
    }
    return row, waits_ms


def measure(contestant: Contestant, redis_url: str, n_tasks: int) -> tuple[dict[str, float], list[float]]:
    """One round of one contestant."""
    with tempfile.TemporaryDirectory(prefix="pynomaly-bench-") as name:
        directory = Path(name)
        (directory / "probes").mkdir()
        path = os.pathsep.join([str(PEERS_DIRECTORY), str(ROOT), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, **contestant.env, "BENCH_REDIS": redis_url, "PYTHONPATH": path,
               "BENCH_PROBES": str(directory / "probes")}  # fmt: skip
        row: dict[str, float] = {}
        waits_ms: list[float] = []
        if contestant.publishes:
            for what in ("one", "many", "more"):
                answer = run_publisher(contestant, what, n_tasks, env)
                row |= {f"{what}_{key}": value for key, value in answer.items()}
            flush(redis_url)
        if contestant.works:
            worked, waits_ms = measure_worker(contestant, env, directory, int(n_tasks * contestant.share))
            row |= worked
        return row, waits_ms


def flush(redis_url: str) -> None:
    """Empty the server."""
    import redis

    with redis.Redis.from_url(redis_url) as client:
        client.flushall()


def main() -> None:
    """Measure and print."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("contestants", nargs="*", help=f"of {', '.join(CONTESTANTS)}; none: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=5_000)
    parser.add_argument("--publish", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.publish:
        print(json.dumps(publish(*options.publish, options.tasks)))
        return
    peers.require("dramatiq", "taskiq_redis", "saq", "rq", "huey")
    from pynomaly_tasks.embedded.redis_server import RedisServer

    names = options.contestants or list(CONTESTANTS)
    results = Results(defaultdict(list), defaultdict(list))
    with (
        tempfile.TemporaryDirectory(prefix="pynomaly-bench-") as directory,
        RedisServer(Path(directory)) as server,
    ):
        for number in range(options.rounds):
            for name in names:
                flush(server.url)
                try:
                    row, waits_ms = measure(CONTESTANTS[name], server.url, options.tasks)
                except MeasuringFailed as error:
                    row, waits_ms = {}, []
                    print(f"round {number + 1}, {name}: {error}", file=sys.stderr, flush=True)
                results.rows[name].append(row)
                results.waits_ms[name] += waits_ms
                print(f"round {number + 1}, {name}: {row}", file=sys.stderr, flush=True)
        print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, {os.cpu_count()} cores, "
              f"load {os.getloadavg()[0]:.1f}, {server.flavour}, "
              + ", ".join(f"{package} {version(package)}" for package in PACKAGES))  # fmt: skip
    print(f"Median (least-most) of {options.rounds} rounds in turn, {options.tasks} tasks each.\n")
    print(results.table(), "\n\n", results.goals(), sep="")


if __name__ == "__main__":
    main()
