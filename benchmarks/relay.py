"""How fast does the relay empty a full outbox into Kafka, beside a bare producer that sends the same bytes?

    python benchmarks/relay.py [--events 100000] [--rounds 3] [--batch 1000] [--profile]

In turns, each in a process of its own, on a PostgreSQL with fsync on and one Apache Kafka (acks=all, idempotent,
zstd): the relay, from its start with N events in the outbox until all are marked as sent; aiokafka's `send_batch`
with batches of the relay's size; aiokafka's `send`, one call an event, its answers awaited together. The bare
producers are handed the records ready-made: keys, headers and values as the relay sends them. Rates count from the
first record sent until the last is acknowledged (for the relay: marked). CPU is the process's own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from pynomaly_tasks.core.event import JOB_EVENTS, Event  # noqa: E402  # the path comes first
from pynomaly_tasks.core.ids import new_id  # noqa: E402
from pynomaly_tasks.events.cloudevents import encode  # noqa: E402
from pynomaly_tasks.events.ports import Record  # noqa: E402

N_PARTITIONS = 2
N_KEYS = 20_000
SUMMARY = {
    "status": "succeeded",
    "anomalies_found": 17,
    "processing_time": 1.234567,
    "n_rows": 100_000,
    "n_columns": 12,
    "detector": {"name": "isolation_forest", "params": {"n_estimators": 100, "max_samples": "auto"}},
    "threshold": {"method": "contamination", "value": 0.6123},
    "dataset": "uploads/sensors/2026-11-22/line-7.parquet",
}


def payload(key: str) -> dict[str, Any]:
    return {
        "job_id": key,
        "kind": "detect_anomalies",
        "queue": "anomaly_detection",
        "attempt": 1,
        "state": "succeeded",
        "summary": {"job_id": key, **SUMMARY},
        "error": None,
        "tags": ["nightly", "line-7"],
        "dataset": SUMMARY["dataset"],
    }


def fill(url: str, n_events: int) -> None:
    from sqlalchemy import insert, text

    from pynomaly_tasks.store.clock import server_now
    from pynomaly_tasks.store.store import Store
    from pynomaly_tasks.store.tables import outbox

    store = Store(url)
    store.migrate()
    keys = [new_id() for _ in range(N_KEYS)]
    with store._db.writing() as connection:
        connection.execute(text("TRUNCATE outbox, leases"))
        for start in range(0, n_events, 5_000):
            rows = [
                {
                    "event_id": new_id(),
                    "topic": JOB_EVENTS,
                    "key": keys[number % N_KEYS],
                    "type": "job.completed",
                    "payload": payload(keys[number % N_KEYS]),
                }
                for number in range(start, min(start + 5_000, n_events))
            ]
            connection.execute(insert(outbox).values(created_at=server_now()), rows)
    store.close()


def records(n_events: int) -> list[Record]:
    """The same events, encoded before the clock starts."""
    keys = [new_id() for _ in range(N_KEYS)]
    now = datetime.now(UTC)
    return [
        encode(
            Event(
                id=new_id(),
                type="job.completed",
                version=1,
                topic=JOB_EVENTS,
                key=keys[number % N_KEYS],
                occurred_at=now,
                data=payload(keys[number % N_KEYS]),
            ),
            "/pynomaly",
        )
        for number in range(n_events)
    ]


async def run_relay(options: argparse.Namespace) -> dict[str, float]:
    from prometheus_client import CollectorRegistry

    from pynomaly_tasks.events.kafka.connection import KafkaConnection
    from pynomaly_tasks.events.kafka.producer import KafkaProducer
    from pynomaly_tasks.events.relay import Relay, run_until_signal
    from pynomaly_tasks.events.relay_metrics import RelayMetrics
    from pynomaly_tasks.events.relay_ports import RelayOptions
    from pynomaly_tasks.events.wake import WakeListener
    from pynomaly_tasks.store.store import Store

    store = Store(options.postgres)
    store.get_outbox_lag()
    producer = KafkaProducer(KafkaConnection(bootstrap_servers=options.kafka))
    await producer.start()
    registry = CollectorRegistry()
    relay = Relay(
        store,
        producer,
        partial(encode, source="/pynomaly"),
        WakeListener("redis://127.0.0.1:1"),
        RelayOptions(batch_size=options.batch, keep_sent_s=options.keep),
        RelayMetrics(registry),
    )

    def n_published() -> float:
        return registry.get_sample_value("pynomaly_outbox_published_total", {"topic": JOB_EVENTS}) or 0.0

    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    task = asyncio.create_task(run_until_signal(relay))
    while n_published() < options.events:
        await asyncio.sleep(0.02)
    relay.stop()
    await task  # the last batch is marked
    took = {"wall_s": time.perf_counter() - started_s, "cpu_s": time.process_time() - started_cpu_s}
    lag = store.get_outbox_lag()
    assert lag.n_unsent == 0, lag
    store.close()
    return took


async def run_bare(options: argparse.Namespace) -> dict[str, float]:
    from aiokafka import AIOKafkaProducer
    from aiokafka.partitioner import murmur2

    events = records(options.events)
    producer = AIOKafkaProducer(
        bootstrap_servers=options.kafka,
        acks="all",
        enable_idempotence=True,
        compression_type="zstd",
        max_batch_size=900_000,
    )
    await producer.start()
    await producer.partitions_for(JOB_EVENTS)
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    if options.what == "send":
        for start in range(0, len(events), options.batch):
            part = events[start : start + options.batch]
            sent = [
                await producer.send(JOB_EVENTS, one.value, one.key, headers=list(one.headers)) for one in part
            ]
            await asyncio.gather(*sent)
    else:
        for start in range(0, len(events), options.batch):
            builders = [producer.create_batch() for _ in range(N_PARTITIONS)]
            for one in events[start : start + options.batch]:
                builder = builders[(murmur2(one.key or b"") & 0x7FFFFFFF) % N_PARTITIONS]
                builder.append(timestamp=None, key=one.key, value=one.value, headers=list(one.headers))
            await asyncio.gather(
                *[
                    await producer.send_batch(builder, JOB_EVENTS, partition=number)
                    for number, builder in enumerate(builders)
                ]
            )
    took = {"wall_s": time.perf_counter() - started_s, "cpu_s": time.process_time() - started_cpu_s}
    await producer.stop()
    return took


def child(options: argparse.Namespace) -> None:
    run = run_relay if options.what == "relay" else run_bare
    if options.profile:
        import cProfile
        import pstats

        with cProfile.Profile() as profile:
            took = asyncio.run(run(options))
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(35)
    else:
        took = asyncio.run(run(options))
    print(json.dumps(took))


def server_cpu_s(pid: int) -> float:
    """CPU of a server and of all the processes that it has or had."""
    total = 0.0
    leader = psutil.Process(pid)
    for process in [leader, *leader.children(recursive=True)]:
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


def measure(what: str, options: argparse.Namespace, postgres: str, kafka: str) -> dict[str, float]:
    command = [
        sys.executable, __file__, "--what", what, "--postgres", postgres, "--kafka", kafka,
        "--events", str(options.events), "--batch", str(options.batch), "--keep", str(options.keep),
        *(["--profile"] if options.profile else []),
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    took: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return took


class Postgres:
    """A PostgreSQL of its own with fsync on."""

    def __init__(self) -> None:
        from support.servers import PostgresCluster

        class Durable(PostgresCluster):
            def _command(self, data: Path) -> list[str | Path]:
                command = super()._command(data)
                return [
                    "fsync=on" if part == "fsync=off" else "full_page_writes=on" if part == "full_page_writes=off"
                    else "shared_buffers=128MB" if part == "shared_buffers=32MB" else part
                    for part in command
                ]  # fmt: skip

        self.cluster = Durable()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--keep", type=float, default=86_400.0, help="0: sent rows are deleted at once")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--only", choices=["relay", "send_batch", "send"])
    for internal in ("--what", "--postgres", "--kafka"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what:
        child(options)
        return
    from support.kafka import KafkaNode

    systems = [options.only] if options.only else ["relay", "send_batch", "send"]
    with ExitStack() as stack:
        postgres = Postgres().cluster
        stack.callback(postgres.close)
        postgres.start()
        node = KafkaNode()
        stack.callback(node.close)
        node.start()
        url = postgres.new_database()
        node.create_topic(JOB_EVENTS, N_PARTITIONS)
        one = records(1)[0]
        size = len(one.value or b"") + len(one.key or b"") + sum(len(k) + len(v) for k, v in one.headers)
        print(
            f"{options.events:,} events of {len(one.value or b'')} bytes ({size} with key and headers), batches of "
            f"{options.batch:,}; Python {platform.python_version()}, aiokafka {version('aiokafka')}, psycopg "
            f"{version('psycopg')}, SQLAlchemy {version('sqlalchemy')}; {os.cpu_count()} cores, load "
            f"{', '.join(f'{load:.2f}' for load in os.getloadavg())} before"
        )
        took: dict[str, list[dict[str, float]]] = {system: [] for system in systems}
        for number in range(options.rounds):
            for system in systems:
                if system == "relay":
                    fill(url, options.events)
                assert postgres._child is not None
                servers = {"PostgreSQL": postgres._child.pid, "Kafka": node.child.pid}
                before = {name: server_cpu_s(pid) for name, pid in servers.items()}
                last = measure(system, options, url, node.bootstrap)
                last |= {name: server_cpu_s(pid) - before[name] for name, pid in servers.items()}
                took[system].append(last)
                shown = {"own": last["cpu_s"], **{name: last[name] for name in servers}}
                print(
                    f"  round {number + 1} {system:10} {options.events / last['wall_s']:>9,.0f} events/s  "
                    "CPU, us an event: "
                    + ", ".join(f"{name} {s / options.events * 1e6:.1f}" for name, s in shown.items())
                    + f"  load {os.getloadavg()[0]:.2f}"
                )
        relay_s = statistics.median(each["wall_s"] for each in took.get("relay", [{"wall_s": float("nan")}]))
        print(f"\n{'':12}{'events/s':>10}{'CPU us/event':>14}{'of the relay':>14}")
        for system in systems:
            wall_s = statistics.median(each["wall_s"] for each in took[system])
            cpu_s = statistics.median(each["cpu_s"] for each in took[system])
            print(
                f"{system:12}{options.events / wall_s:>10,.0f}{cpu_s / options.events * 1e6:>14.1f}"
                f"{relay_s / wall_s:>13.2f}x"
            )


if __name__ == "__main__":
    main()
