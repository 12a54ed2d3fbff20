"""How soon does an update reach those who watch, beside the websockets library's own broadcast?

    python benchmarks/live.py [--rounds 3] [--seconds 5] [--skip-push] [--skip-commit] [--no-kafka]

Push: XADD of 480 bytes -> stream -> server -> WebSocket, each client watching everything, at 100 updates a second;
then as fast as they go. The peer reads the same stream and calls `broadcast`: the least that a server in Python can do
with that library. In turns; medians of the rounds.

Commit to browser: `job.completed` of 100 jobs a second, settled in PostgreSQL (fsync on), through outbox relay, event log, the
dashboard's consumer and the live stream to 100 WebSocket clients, each stage by its own time stamp (wall clock of one
machine, whole milliseconds at the log and the stream). Clients, servers, relay and consumer are processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from pynomaly_tasks.bootstrap import Platform  # noqa: E402  # the path comes first
from pynomaly_tasks.core.event import JOB_EVENTS  # noqa: E402
from pynomaly_tasks.core.job import AttemptOutcome, JobState  # noqa: E402
from pynomaly_tasks.embedded.redis_server import RedisServer  # noqa: E402
from pynomaly_tasks.realtime.streams import DASHBOARD_STREAM  # noqa: E402
from pynomaly_tasks.store.transitions import Settlement  # noqa: E402
from support.jobs import settings_from  # noqa: E402
from support.processes import Programs  # noqa: E402
from support.web_server import ADDRESS, web_env  # noqa: E402

PEERS = Path(__file__).parent / "live_peers"
PER_S = 100
N_BURST = 3_000
SERVERS = ("ours", "websockets broadcast")
N_CLIENT_PROCESSES = 2


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


@contextmanager
def server(name: str, programs: Programs, redis_url: str, directory: Path) -> Iterator[int]:
    """Its port, while it runs."""
    if name == "ours":
        env = web_env(redis_url, directory / "data")
        program = programs.python("-m", "workers.web", env=env, name="web")
    else:
        program = programs.python(PEERS / "websockets_broadcast.py", f"{redis_url}/3", name="broadcast")
    try:
        yield int(program.wait_for_output(ADDRESS).group(1).rpartition(":")[2])
    finally:
        program.kill()


@contextmanager
def clients(
    port: int,
    n_clients: int,
    n_updates: int,
    *,
    subscribe: bool,
    mark: str,
    directory: Path,
    slow: bool = False,
) -> Iterator[list[Path]]:
    """They are watching; at the end of the block they have all they wait for."""
    each = n_clients // N_CLIENT_PROCESSES
    outputs = [directory / f"clients-{number}.txt" for number in range(N_CLIENT_PROCESSES)]
    running = [
        subprocess.Popen(
            [
                sys.executable,
                PEERS / "clients.py",
                str(port),
                str(each),
                str(n_updates),
                str(int(subscribe)),
                mark,
            ]
            + [str(output)]
            + (["slow"] if slow and output is outputs[0] else []),
            stdout=subprocess.PIPE,
            text=True,
        )
        for output in outputs
    ]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield outputs
        for process in running:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("done, 0"):
                print("  note:", line.strip(), file=sys.stderr)
            process.wait(150)
    finally:
        for process in running:
            process.kill()
            process.wait()


def read(outputs: list[Path]) -> list[tuple[str, int]]:
    lines = [line.split(" ") for output in outputs for line in output.read_text().splitlines()]
    return [(stamp, int(at)) for stamp, at in lines]


def update(number: int) -> bytes:
    frame = {
        "type": "job",
        "event": "job.progress",
        "job_id": f"0199a2b4-7e1c-7a51-b3f2-{number % 50:012d}",
        "kind": "detect_anomalies",
        "queue": "anomaly_detection",
        "state": "running",
        "attempt": 1,
        "progress": {"current": number, "total": 100_000, "status": "scoring rows"},
        "summary": None,
        "error": None,
        "tags": ["nightly"],
        "dataset": "uploads/line-7.parquet",
        "pad": "",
        "sent_ns": time.monotonic_ns(),
    }
    data = orjson.dumps(frame)
    return data.replace(b'"pad":""', b'"pad":"' + b"x" * max(0, 480 - len(data)) + b'"')


def push(name: str, n_clients: int, *, seconds: float, slow: bool = False) -> dict[str, float]:
    """One run at PER_S updates a second: milliseconds from XADD to the client."""
    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        programs = Programs(directory)
        n_updates = int(PER_S * seconds)
        with RedisServer(directory / "redis") as redis_server:
            with (
                server(name, programs, redis_server.url, directory) as port,
                redis_server.client(3) as stream,
                clients(
                    port,
                    n_clients,
                    n_updates,
                    subscribe=name == "ours",
                    mark='"sent_ns":',
                    directory=directory,
                    slow=slow,
                ) as outputs,
            ):
                start = time.monotonic()
                for number in range(n_updates):
                    time.sleep(max(0.0, start + number / PER_S - time.monotonic()))
                    stream.xadd(DASHBOARD_STREAM, {"data": update(number)}, maxlen=1_000, approximate=True)
            ms = [(at - int(stamp)) / 1e6 for stamp, at in read(outputs)]
    return {"p50": percentile(ms, 0.5), "p99": percentile(ms, 0.99), "n": len(ms)}


def burst(name: str, n_clients: int) -> dict[str, float]:
    """Deliveries a second when the stream is written as fast as it goes."""
    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        programs = Programs(directory)
        with RedisServer(directory / "redis") as redis_server:
            with (
                server(name, programs, redis_server.url, directory) as port,
                redis_server.client(3) as stream,
                clients(
                    port, n_clients, N_BURST, subscribe=name == "ours", mark='"sent_ns":', directory=directory
                ) as outputs,
                stream.pipeline(transaction=False) as pipeline,
            ):
                for number in range(N_BURST):
                    # Each of another job, so that nothing may be left out for a newer state.
                    data = update(number).replace(b"0199a2b4-7e1c", b"%08x-7e1c" % number)
                    pipeline.xadd(DASHBOARD_STREAM, {"data": data})
                pipeline.execute()
            told = read(outputs)
    times = [at for _, at in told]
    return {"rate": len(times) / ((max(times) - min(times)) / 1e9), "n": len(times)}


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def push_tables(rounds: int, seconds: float) -> None:
    cases = [("100 clients", 100, False), ("500 clients", 500, False), ("500, one reads nothing", 500, True)]
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    bursts: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for label, n_clients, slow in cases:
            for name in SERVERS:
                if slow and name != "ours":
                    continue  # the peer keeps all that is not taken, without end
                runs.setdefault((label, name), []).append(push(name, n_clients, seconds=seconds, slow=slow))
        for name in SERVERS:
            bursts.setdefault(name, []).append(burst(name, 100))
    print(f"\n## Push: XADD -> stream -> WebSocket, {PER_S} updates/s of 480 bytes to every client, ms\n")
    print(
        "| clients | server | p50 | p99 | p50 of the peer's | p99 of the peer's |\n|---|---|---|---|---|---|"
    )
    for label, _, _ in cases:
        peer = medians(runs.get((label, SERVERS[1]), runs["500 clients", SERVERS[1]]))
        for name in SERVERS:
            if (label, name) in runs:
                own = medians(runs[label, name])
                ratios = f"{own['p50'] / peer['p50']:.2f} | {own['p99'] / peer['p99']:.2f}"
                print(f"| {label} | {name} | {own['p50']:.1f} | {own['p99']:.1f} | {ratios} |")
    print(f"\n## Push: {N_BURST:,} updates at once to 100 clients\n")
    print("| server | deliveries/s | of the peer's |\n|---|---|---|")
    most = {name: medians(runs)["rate"] for name, runs in bursts.items()}
    for name, rate in most.items():
        print(f"| {name} | {rate:,.0f} | {rate / most[SERVERS[1]]:.2f} |")


def commit_to_browser(
    backend: str, env: Mapping[str, str], redis_server: Any, directory: Path, seconds: float
) -> Any:
    """Milliseconds of each stage for each job, and to each client."""
    programs = Programs(directory)
    env = {**web_env(redis_server.url, directory / "data"), "PYNOMALY_EVENTS__BACKEND": backend, **env}
    env["PYNOMALY_LIVE__STREAM_LENGTH"] = "20000"
    settings = settings_from(env)
    parts = Platform(settings)
    (directory / "data" / "uploads").mkdir(parents=True, exist_ok=True)
    (directory / "data" / "uploads" / "n.csv").write_text("a,b\n1,2\n3,4\n")
    n_jobs = int(PER_S * seconds)
    try:
        jobs = parts.submit_many("profile_dataset", [{"dataset": "n.csv"}] * n_jobs)
        for job in jobs:
            parts.store.claim(job.id, "bench", 600.0)
        for module in ("relay", "consumer_dashboard"):
            programs.python("-m", f"workers.{module}", env=env, name=module)
        web = programs.python("-m", "workers.web", env=env, name="web")
        port = int(web.wait_for_output(ADDRESS).group(1).rpartition(":")[2])
        with redis_server.client(3) as streams:
            end = time.monotonic() + 60
            while streams.xlen(DASHBOARD_STREAM) < 2 * n_jobs:  # what was submitted and started is through
                if time.monotonic() > end:
                    raise SystemExit("nothing comes through:\n" + programs.report())
                time.sleep(0.05)
            with clients(
                port, 100, n_jobs, subscribe=True, mark='"event":"job.completed"', directory=directory
            ) as outputs:
                committed = settle(parts, jobs)
            entries = streams.xrange(DASHBOARD_STREAM)
    finally:
        programs.close()
    streamed = {}
    for key, fields in entries:
        frame = orjson.loads(fields[b"data"])
        if frame.get("event") == "job.completed":
            streamed[frame["job_id"]] = int(key.partition(b"-")[0]) * 1e6
    logged = asyncio.run(log_times(parts))
    parts.close()
    told = read(outputs)
    return stages(committed, logged, streamed, told)


def settle(parts: Platform, jobs: list[Any]) -> dict[str, int]:
    """End the jobs, PER_S a second; when each was committed."""
    committed = {}
    start = time.monotonic()
    for number, job in enumerate(jobs):
        time.sleep(max(0.0, start + number / PER_S - time.monotonic()))
        summary = {"job_id": job.id, "status": "succeeded", "anomalies_found": 3, "processing_time": 1.2}
        done = Settlement(state=JobState.SUCCEEDED, outcome=AttemptOutcome.SUCCEEDED, summary=summary)
        parts.store.settle(job.id, 1, done)
        committed[job.id] = time.time_ns()
        parts.announcer.wake_relay()
    return committed


async def log_times(parts: Platform) -> dict[str, float]:
    found = {}
    records = await parts.event_reader().read(JOB_EVENTS, since=0, until=None, max_records=1_000_000)
    for record in records:
        if b'"anomalies_found":3' in record.value and b'"succeeded"' in record.value:
            found[orjson.loads(record.value)["job_id"]] = record.at.timestamp() * 1e9
    return found


def stages(
    committed: dict[str, int],
    logged: dict[str, float],
    streamed: dict[str, float],
    told: list[tuple[str, int]],
) -> dict[str, list[float]]:
    return {
        "commit -> log (relay)": [(logged[job] - at) / 1e6 for job, at in committed.items()],
        "log -> stream (consumer)": [(streamed[job] - logged[job]) / 1e6 for job in committed],
        "stream -> client (web process)": [(at - streamed[job]) / 1e6 for job, at in told],
        "commit -> client": [(at - committed[job]) / 1e6 for job, at in told],
    }


def commit_tables(rounds: int, seconds: float, with_kafka: bool) -> None:
    backends = ["redis_streams", *(["kafka"] if with_kafka else [])]
    found: dict[str, list[dict[str, list[float]]]] = {}
    with ExitStack() as stack:
        env: dict[str, dict[str, str]] = {"redis_streams": {}}
        if with_kafka:
            env["kafka"] = kafka_env(stack)
        postgres = durable_postgres(stack)
        for _ in range(rounds):
            for backend in backends:
                env[backend]["PYNOMALY_STORE__URL"] = postgres.new_database()
                with tempfile.TemporaryDirectory() as text, RedisServer(Path(text) / "redis") as redis_server:
                    run = commit_to_browser(backend, env[backend], redis_server, Path(text), seconds)
                    found.setdefault(backend, []).append(run)
    print(f"\n## Commit of job.completed to 100 WebSocket clients, {PER_S} jobs/s, ms\n")
    print("| log | stage | p50 | p99 |\n|---|---|---|---|")
    for backend, runs in found.items():
        for stage in runs[0]:
            p50 = statistics.median(percentile(run[stage], 0.5) for run in runs)
            p99 = statistics.median(percentile(run[stage], 0.99) for run in runs)
            print(f"| {backend} | {stage} | {p50:.1f} | {p99:.1f} |")


def durable_postgres(stack: ExitStack) -> Any:
    """A PostgreSQL of its own, with fsync on."""
    from support.servers import PostgresCluster

    class Durable(PostgresCluster):
        def _command(self, data: Path) -> list[str | Path]:
            durable = {"fsync=off": "fsync=on", "full_page_writes=off": "full_page_writes=on"}
            return [durable.get(str(part), part) for part in super()._command(data)]

    cluster = Durable()
    stack.callback(cluster.close)
    cluster.start()
    return cluster


def kafka_env(stack: ExitStack) -> dict[str, str]:
    """A Kafka with its topics."""
    from support.kafka import KafkaNode

    node = KafkaNode().start()
    stack.callback(node.close)
    env = {"PYNOMALY_KAFKA__BOOTSTRAP_SERVERS": node.bootstrap, "PYNOMALY_EVENTS__BACKEND": "kafka"}
    subprocess.run(
        [Path(sys.executable).with_name("pynomaly"), "kafka", "create-topics"], env={**os.environ, **env}, check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return env


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--skip-push", action="store_true")
    parser.add_argument("--skip-commit", action="store_true")
    parser.add_argument("--no-kafka", action="store_true")
    arguments = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("uvicorn", "websockets", "redis", "aiokafka"))
    redis_version = subprocess.run(
        ["redis-server", "--version"], capture_output=True, text=True, check=True
    ).stdout
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python")
    print(f"{platform.python_version()}, {versions}, {redis_version.split()[2]}, {arguments.rounds} rounds")
    if not arguments.skip_push:
        push_tables(arguments.rounds, arguments.seconds)
    if not arguments.skip_commit:
        commit_tables(arguments.rounds, arguments.seconds, not arguments.no_kafka)


if __name__ == "__main__":
    main()
