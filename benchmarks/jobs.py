"""What does a job cost, beside plain Celery and other task queues?

    python benchmarks/jobs.py [--rounds 3] [--jobs 500] [--many 2000] [peer ...]

For each system, in turns, in processes of their own: submitting one job (one call after another, one client),
submitting many with the call that the system has for that, and running jobs that do nothing (one INCR) end to end
with two slots: from the first submit until all have run. Wall clock, and CPU of the client and of the workers.
All on one loopback Redis (AOF everysec) and, where named, PostgreSQL with fsync on. The peers keep no row, no
attempts, no history: the table says what the platform's promises cost. Needs `make bench`'s packages.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import peers
import psutil
import redis

from pynomaly_tasks.embedded.redis_server import RedisServer

ROOT = Path(__file__).parents[1]
PEERS_DIRECTORY = Path(__file__).parent / "job_peers"
sys.path[:0] = [str(ROOT / "tests"), str(PEERS_DIRECTORY)]

#: Name in the table: module, whether its store is PostgreSQL, packages whose versions matter.
SYSTEMS = {
    "ours, SQLite": ("ours_peer", False, ("celery", "sqlalchemy")),
    "ours, PostgreSQL": ("ours_peer", True, ("celery", "psycopg")),
    "Celery": ("celery_peer", False, ("celery",)),
    "dramatiq": ("dramatiq_peer", False, ("dramatiq",)),
    "taskiq": ("taskiq_peer", False, ("taskiq", "taskiq-redis")),
    "rq": ("rq_peer", False, ("rq",)),
    "procrastinate": ("procrastinate_peer", True, ("procrastinate",)),
}
TIMEOUT_S = 180.0
N_WARM = 5


def client(module_name: str, what: str, n_jobs: int) -> dict[str, float]:
    """Runs in a process of its own: submit, and say what it took."""
    module = importlib.import_module(module_name)
    if what == "prepare":
        prepare = getattr(module, "prepare", None)
        return {"prepared": float(prepare() is None)} if prepare else {}
    if what == "many" and module.submit_many is None:
        return {}
    for _ in range(N_WARM):
        module.submit()  # connections, lazy imports
    started_at_s, started_s, started_cpu_s = time.time(), time.perf_counter(), time.process_time()
    if what == "one":
        for _ in range(n_jobs):
            module.submit()
    else:
        module.submit_many(n_jobs)
    return {
        "started_at_s": started_at_s,
        "wall_s": time.perf_counter() - started_s,
        "cpu_s": time.process_time() - started_cpu_s,
    }


def run_client(module_name: str, what: str, n_jobs: int, env: dict[str, str]) -> dict[str, float]:
    """The same, from here."""
    command = [sys.executable, __file__, "--client", module_name, what, "--jobs", str(n_jobs)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=PEERS_DIRECTORY, check=False)
    if done.returncode:
        raise SystemExit(f"{module_name} {what} failed:\n{done.stderr}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def cpu_s(processes: list[subprocess.Popen[bytes]]) -> float:
    """Of the process trees, those that ended within them included."""
    total = 0.0
    for process in processes:
        tree = psutil.Process(process.pid)
        for each in [tree, *tree.children(recursive=True)]:
            times = each.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


@contextmanager
def workers(
    module_name: str, env: dict[str, str], directory: Path
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The system's workers, with two slots in all."""
    code = f"import json, {module_name}; print(json.dumps({module_name}.WORKERS))"
    commands = json.loads(
        subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        ).stdout
    )
    log = (directory / f"{module_name}.log").open("ab")
    started = [
        subprocess.Popen(
            command, env={**env, "BENCH_ROLE": "worker"}, stdout=log, stderr=log, start_new_session=True, cwd=PEERS_DIRECTORY
        )
        for command in commands
    ]  # fmt: skip
    try:
        yield started
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                for each in psutil.Process(process.pid).children(recursive=True):
                    each.kill()
                process.kill()
                process.wait()


def wait_for(counter: redis.Redis, n_done: int, started: list[subprocess.Popen[bytes]]) -> None:
    """Until so many jobs have run."""
    end = time.monotonic() + TIMEOUT_S
    while int(counter.get("done") or 0) < n_done:
        if time.monotonic() > end or any(process.poll() is not None for process in started):
            raise SystemExit(f"only {counter.get('done')} of {n_done} jobs ran")
        time.sleep(0.005)


def measure(
    module_name: str, env: dict[str, str], directory: Path, n_jobs: int, n_many: int
) -> dict[str, float]:
    """One round of one system."""
    run_client(module_name, "prepare", 0, env)
    one = run_client(module_name, "one", n_jobs, env)
    many = run_client(module_name, "many", n_many, env)
    with redis.Redis.from_url(env["BENCH_REDIS"] + "/9") as counter:
        counter.delete("done")
        n_waiting = n_jobs + N_WARM + (n_many + N_WARM if many else 0)
        with workers(module_name, env, directory) as started:
            wait_for(counter, n_waiting, started)  # what was submitted above warms it up
            counter.delete("done")
            before_s = cpu_s(started)
            sent = run_client(module_name, "one", n_jobs, env)
            wait_for(counter, n_jobs + N_WARM, started)
            wall_s = time.time() - sent["started_at_s"]
            time.sleep(0.3)
            worker_cpu_s = cpu_s(started) - before_s
    return {
        "submit_ms": one["wall_s"] / n_jobs * 1e3,
        "submit_cpu_ms": one["cpu_s"] / n_jobs * 1e3,
        **(
            {"many_ms": many["wall_s"] / n_many * 1e3, "many_cpu_ms": many["cpu_s"] / n_many * 1e3}
            if many
            else {}
        ),
        "jobs_per_s": n_jobs / wall_s,
        "worker_cpu_ms": worker_cpu_s / (n_jobs + N_WARM) * 1e3,
    }


def environment(
    name: str, redis_url: str, directory: Path, postgres_dsn: str | None, round_number: int
) -> dict[str, str]:
    """Of the clients and workers of one round."""
    _, on_postgres, _ = SYSTEMS[name]
    env = {
        **os.environ,
        "BENCH_REDIS": redis_url,
        "PYTHONPATH": os.pathsep.join([str(PEERS_DIRECTORY), str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "PYNOMALY_REDIS__URL": redis_url,
        "PYNOMALY_DATA__DIRECTORY": str(directory / f"data-{round_number}"),
        "PYNOMALY_LOG__LEVEL": "error",
    }
    if on_postgres:
        assert postgres_dsn is not None
        env["BENCH_POSTGRES"] = postgres_dsn
        env["PYNOMALY_STORE__URL"] = "postgresql+psycopg://" + postgres_dsn.removeprefix("postgresql://")
    return env


@contextmanager
def servers(directory: Path, with_postgres: bool) -> Iterator[tuple[RedisServer, Any]]:
    """Redis, and PostgreSQL that syncs as in production."""
    from support.servers import PostgresCluster

    class Durable(PostgresCluster):
        def _command(self, data: Path) -> list[str | Path]:
            off = {"fsync=off": "fsync=on", "full_page_writes=off": "full_page_writes=on"}
            return [off.get(str(part), part) for part in super()._command(data)]

    cluster = Durable() if with_postgres else None
    with RedisServer(directory / "redis") as server:
        try:
            if cluster is not None:
                cluster.start()
            yield server, cluster
        finally:
            if cluster is not None:
                cluster.close()


def table(rounds: dict[str, list[dict[str, float]]]) -> str:
    """Medians (least-most), and the ratio to plain Celery in the same run."""

    def cell(name: str, key: str, digits: int = 2) -> str:
        values = [row[key] for row in rounds[name] if key in row]
        if not values:
            return "-"
        median = statistics.median(values)
        peer = [row[key] for row in rounds.get("Celery", []) if key in row]
        ratio = f" x{median / statistics.median(peer):.1f}" if peer and name != "Celery" else ""
        return f"{median:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f}){ratio}"

    lines = [
        "| system | submit one, ms | its CPU, ms | submit many, ms a job | its CPU, ms | end to end, jobs/s | worker CPU, ms a job |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in rounds:
        cells = [cell(name, key) for key in ("submit_ms", "submit_cpu_ms", "many_ms", "many_cpu_ms")]
        cells += [cell(name, "jobs_per_s", 0), cell(name, "worker_cpu_ms")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("systems", nargs="*", help=f"of {', '.join(SYSTEMS)}; none: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--many", type=int, default=2_000)
    parser.add_argument("--client", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        print(json.dumps(client(*options.client, options.jobs)))
        return
    peers.require("dramatiq", "taskiq_redis", "rq", "procrastinate")
    names = options.systems or list(SYSTEMS)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    directory = Path(tempfile.mkdtemp(prefix="pynomaly-bench-"))
    try:
        with servers(directory, any(SYSTEMS[name][1] for name in names)) as (server, cluster):
            for number in range(options.rounds):
                for name in names:
                    with server.client() as redis_client:
                        redis_client.flushall()
                    dsn = None
                    if cluster is not None:
                        dsn = "postgresql://" + cluster.new_database().split("://", 1)[1]
                    env = environment(name, server.url, directory, dsn, number)
                    rounds[name].append(measure(SYSTEMS[name][0], env, directory, options.jobs, options.many))
                    print(f"round {number + 1}, {name}: {rounds[name][-1]}", file=sys.stderr, flush=True)
            packages = sorted(
                {package for name in names for package in SYSTEMS[name][2]} | {"kombu", "redis"}
            )
            print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, {os.cpu_count()} cores, "
                  f"load {os.getloadavg()[0]:.1f}, {server.flavour}, "
                  + ", ".join(f"{package} {version(package)}" for package in packages))  # fmt: skip
            print(f"Median (least-most) of {options.rounds} rounds, taking turns; x: ratio to Celery's median. "
                  f"{options.jobs} jobs one by one, {options.many} at once.\n")  # fmt: skip
            print(table(rounds))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
