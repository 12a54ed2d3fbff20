"""Kafka goes away under load: jobs do not notice, the outbox drains in order when it is back."""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict

import psutil
import pytest
from sqlalchemy import select

from pynomaly_tasks.core.job import Job, JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.store.tables import outbox
from support.jobs import Engine, EngineStarter
from support.kafka import KafkaNode
from support.processes import Program
from support.relays import QUICK
from support.waiting import wait_until

TOPIC = "job_events"
#: What Python's allocator and the client may add over an outage, however long it lasts.
MEMORY_SLACK_BYTES = 16 << 20


def _rss(program: Program) -> int:
    return int(psutil.Process(program.pid).memory_info().rss)


def _run_through_outage(
    start_engine: EngineStarter,
    redis: RedisServer,
    kafka: KafkaNode,
    store_url: str,
    *,
    outage: str,
    lasts_s: float,
) -> None:
    kafka.create_topic(TOPIC, 2)
    for topic in ("anomaly_events", "system_events", "audit_events"):
        kafka.create_topic(topic, 1)
    env = {
        **QUICK,
        "PYNOMALY_EVENTS__BACKEND": "kafka",
        "PYNOMALY_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap,
    }
    engine = start_engine(redis.url, store_url, env)
    relay = engine.programs.python("-m", "workers.relay", name="relay", env=engine.env)
    engine.worker(slots=2, pool="threads")
    jobs: list[Job] = []
    submits_s: list[tuple[float, float]] = []  #: when, and how long it took
    stopping = threading.Event()

    def submit() -> None:
        while not stopping.wait(0.05):
            began_s = time.monotonic()
            jobs.append(engine.submit())
            submits_s.append((began_s, time.monotonic() - began_s))

    def lag() -> int:
        return engine.platform.store.get_outbox_lag().n_unsent

    thread = threading.Thread(target=submit)
    thread.start()
    try:
        calm_from_s = time.monotonic()
        wait_until(lambda: len(jobs) >= 60, 60.0, "60 jobs")
        wait_until(lambda: lag() < 20, 30.0, "the relay to keep up")
        memory_before, away_from_s = _rss(relay), time.monotonic()
        (kafka.pause if outage == "paused" else kafka.kill)()
        sampled: list[int] = []
        wait_until(
            lambda: sampled.append(_rss(relay)) or time.monotonic() > away_from_s + lasts_s,
            lasts_s + 30.0,
            "the outage to last",
            every_s=0.2,
        )
        n_waiting = lag()
        reason = engine.platform.store.get_outbox_lag().last_error
        back_at_s = time.monotonic()
        (kafka.resume if outage == "paused" else kafka.restart)()
        served_at_s = time.monotonic()
        wait_until(lambda: sampled.append(_rss(relay)) or lag() < 20, 60.0, "the outbox to drain")
        drained_s = time.monotonic() - served_at_s
    finally:
        stopping.set()
        thread.join(60)
    ended = engine.wait_for_all(jobs, 60.0)
    wait_until(lambda: lag() == 0, 30.0, "the last events to go")

    assert {job.state for job in ended} == {JobState.SUCCEEDED}
    assert n_waiting > lasts_s * 20
    assert reason is not None
    calm = _durations_s(ended, calm_from_s, away_from_s)
    during = _durations_s(ended, away_from_s, back_at_s)
    submits = [took_s for began_s, took_s in submits_s if away_from_s <= began_s < back_at_s]
    print(
        f"\nKafka {outage} for {lasts_s:g} s: {len(ended)} jobs; from submit to end, median and 95 %: before "
        f"{_shown(calm)}, during {_shown(during)}; submits during {_shown(submits)}; {n_waiting} events waited, "
        f"drained {drained_s:.1f} s after it served; memory of the relay {memory_before / 2**20:.0f} MiB before, at "
        f"most {max(sampled) / 2**20:.0f} MiB"
    )
    assert statistics.median(during) < statistics.median(calm) * 3 + 0.25
    assert max(sampled) < memory_before + MEMORY_SLACK_BYTES
    _check_order(engine, kafka)
    relay.stop()


def _durations_s(jobs: list[Job], from_s: float, until_s: float) -> list[float]:
    offset_s = time.time() - time.monotonic()
    return sorted(
        (job.finished_at - job.created_at).total_seconds()
        for job in jobs
        if job.finished_at is not None and from_s <= job.created_at.timestamp() - offset_s < until_s
    )


def _shown(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"{statistics.median(ordered):.3f} s, {ordered[int(len(ordered) * 0.95)]:.3f} s ({len(ordered)})"


def _check_order(engine: Engine, kafka: KafkaNode) -> None:
    """Every event of every job is in the topic, first occurrences in the order of the outbox."""
    written: dict[str, list[str]] = defaultdict(list)
    with engine.platform.store._db.reading() as connection:
        query = select(outbox.c.key, outbox.c.event_id).where(outbox.c.topic == TOPIC).order_by(outbox.c.id)
        for key, event_id in connection.execute(query):
            written[key].append(event_id)
    found: dict[str, list[str]] = defaultdict(list)
    for record in kafka.read_topic(TOPIC):
        found[(record.key or b"").decode()].append(record.header("ce_id").decode())
    assert written
    assert {key: list(dict.fromkeys(ids)) for key, ids in found.items()} == written


@pytest.mark.parametrize("outage", ["killed", "paused"])
def test_jobs_do_not_notice_that_kafka_is_away(
    start_engine: EngineStarter, own_redis: RedisServer, own_kafka: KafkaNode, postgres_url: str, outage: str
) -> None:
    _run_through_outage(start_engine, own_redis, own_kafka, postgres_url, outage=outage, lasts_s=5.0)


@pytest.mark.slow
@pytest.mark.parametrize("outage", ["killed", "paused"])
def test_jobs_do_not_notice_that_kafka_is_away_for_a_minute(
    start_engine: EngineStarter, own_redis: RedisServer, own_kafka: KafkaNode, postgres_url: str, outage: str
) -> None:
    _run_through_outage(start_engine, own_redis, own_kafka, postgres_url, outage=outage, lasts_s=60.0)
