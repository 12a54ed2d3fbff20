"""The platform's tasks are used as any Celery task is, on a real Redis with a real worker process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from celery import chain, chord, group
from celery.exceptions import TaskRevokedError

from pynomaly_tasks import detect_anomalies, generate_report, profile_dataset, send_notification
from pynomaly_tasks.bootstrap import app
from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import InvalidDataset
from support.gate import Gate
from support.stack import Stack, client, result_of
from support.waiting import wait_until

TIMEOUT_S = 60


@pytest.fixture(scope="module")
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, gate: Gate) -> Iterator[Stack]:
    """One worker for all queues, with one slot."""
    env = {"PYNOMALY_NOTIFICATIONS__CHANNELS": json.dumps({"gate": gate.channel})}
    stack = Stack(tmp_path_factory.mktemp("stack"), redis_server, env)
    with client(stack):
        try:
            stack.worker("workers.all", "-c", "1")
            yield stack
        finally:
            stack.close()


@pytest.fixture
def table(stack: Stack, tmp_path) -> str:
    """100 rows, of which row 50 is far from the others."""
    rows = [[i % 7, (i * 3) % 5] for i in range(100)]
    rows[50] = [1_000, -1_000]
    return stack.csv(f"{tmp_path.name}.csv", rows)


def test_delay_runs_the_job_and_get_returns_its_summary(stack: Stack, table: str) -> None:
    result = detect_anomalies.delay(table, "ecod")

    summary = result.get(timeout=TIMEOUT_S)
    assert summary["job_id"] == result.id
    assert summary["status"] == "succeeded"
    assert summary["anomalies_found"] == 1
    assert summary["processing_time"] > 0
    assert result.state == "SUCCESS"
    assert stack.platform.store.get_job(result.id).state is JobState.SUCCEEDED


def test_chain_shows_as_one(stack: Stack, table: str) -> None:
    last = chain(
        detect_anomalies.s(table, detector="ecod"), generate_report.s(), send_notification.s(subject="done")
    ).apply_async()

    assert last.get(timeout=TIMEOUT_S)["delivered"] == ["log"]
    report = last.parent
    first = report.parent
    store = stack.platform.store
    jobs = [store.get_job(result.id) for result in (first, report, last)]
    assert [job.kind for job in jobs] == ["detect_anomalies", "generate_report", "send_notification"]
    assert [job.parent_id for job in jobs] == [None, first.id, report.id]
    assert {job.root_id for job in jobs} == {first.id}
    assert [child.id for child in result_of(first.id).children] == [report.id]
    assert [child.id for child in result_of(report.id).children] == [last.id]


def test_chord_reports_on_all_its_detections(stack: Stack, table: str) -> None:
    detectors = ["ecod", "isolation_forest", "ecod"]

    result = chord(
        [detect_anomalies.s(table, name) for name in detectors], generate_report.s(title="All")
    ).delay()

    summary = result.get(timeout=TIMEOUT_S)
    assert len(summary["source_job_ids"]) == 3
    kinds = {stack.platform.store.get_job(job_id).kind for job_id in summary["source_job_ids"]}
    assert kinds == {"detect_anomalies"}


def test_group_returns_every_summary_in_order(stack: Stack, table: str) -> None:
    results = group(detect_anomalies.si(table, "ecod"), profile_dataset.si(table)).apply_async()

    detection, profile = results.get(timeout=TIMEOUT_S)
    assert detection["anomalies_found"] == 1
    assert profile["n_rows"] == 100
