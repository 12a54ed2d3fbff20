from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pynomaly_tasks.core.job import JobResult
from pynomaly_tasks.errors import DeliveryFailed, InvalidRequest, NotFound
from pynomaly_tasks.kinds.send_notification import SendNotificationRequest, perform
from pynomaly_tasks.kinds.services import Services


@dataclass
class Context:
    scratch: Path = Path()
    job_id: str = "notice-1"
    attempt: int = 1

    def progress(self, current: int, total: int, status: str) -> None: ...

    def checkpoint(self) -> None: ...


@dataclass
class Ledger:
    """The delivery log, in memory."""

    delivered: set[tuple[str, str]] = field(default_factory=set)
    tries: dict[tuple[str, str], list[str | None]] = field(default_factory=dict)

    def begin(self, dedup_key: str, channel: str, job_id: str) -> bool:
        return (dedup_key, channel) not in self.delivered

    def finish(self, dedup_key: str, channel: str, error: str | None) -> None:
        self.tries.setdefault((dedup_key, channel), []).append(error)
        if error is None:
            self.delivered.add((dedup_key, channel))


@dataclass
class Recorder:
    """A channel that keeps what it was given, and fails ``n_failures`` times first."""

    n_failures: int = 0
    sent: list[tuple[str, str]] = field(default_factory=list)

    def send(self, subject: str, body: str) -> None:
        if self.n_failures:
            self.n_failures -= 1
            raise DeliveryFailed("channel ops: the service answered with HTTP status 500")
        self.sent.append((subject, body))


@dataclass
class Recorders:
    by_name: Mapping[str, Recorder]

    def find(self, name: str) -> Recorder | None:
        return self.by_name.get(name)

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.by_name))


@dataclass
class Shelf:
    results: Mapping[str, JobResult]

    def get_result(self, job_id: str) -> JobResult:
        if job_id not in self.results:
            raise NotFound(job_id)
        return self.results[job_id]


def result(job_id: str, summary: Mapping[str, Any], detail: Mapping[str, Any]) -> JobResult:
    return JobResult(
        job_id=job_id,
        attempt=1,
        summary={"job_id": job_id, **summary},
        detail=detail,
        artifacts={},
        created_at=datetime(2026, 11, 22, tzinfo=UTC),
    )


DETECTION = {
    "dataset": {"name": "machine temperature"},
    "detector": {"name": "robust_z"},
    "n_scored": 22_695,
    "n_anomalies": 4,
    "anomalies": [
        {
            "rank": rank,
            "row": 100 + rank,
            "timestamp": f"2013-12-16T17:2{rank}:00",
            "score": 12.5 - rank,
            "contributions": [{"column": "value", "value": 2.1, "direction": "low"}],
        }
        for rank in (1, 2, 3, 4)
    ],
    "warnings": [],
}


def world(**channels: Recorder) -> Services:
    results = {
        "job-1": result("job-1", {"anomalies_found": 4}, DETECTION),
        "report-1": result("report-1", {"report": "report.html"}, {"source_job_ids": ["job-1"]}),
    }
    return Services(
        datasets=None,  # type: ignore[arg-type]  # no dataset is opened
        artifacts=None,  # type: ignore[arg-type]  # no file is read
        results=Shelf(results),
        channels=Recorders({"log": Recorder(), **channels}),
        deliveries=Ledger(),
        webhooks=None,  # type: ignore[arg-type]  # nothing is posted
    )


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        ("job-1", ("job-1",)),
        ({"job_id": "job-1", "status": "succeeded", "anomalies_found": 2}, ("job-1",)),
        ([{"job_id": "job-1"}, "job-2", {"job_id": "job-1"}], ("job-1", "job-2")),
        (None, ()),
    ],
)
def test_job_is_named_by_id_by_summary_or_by_a_list_of_them(given: Any, ids: tuple[str, ...]) -> None:
    request = SendNotificationRequest(job=given, body="done")

    assert request.job == ids


def test_a_request_survives_the_way_through_json() -> None:
    request = SendNotificationRequest.model_validate({"job": {"job_id": "a"}, "channel": "log"})

    assert SendNotificationRequest.model_validate_json(request.model_dump_json()) == request


@pytest.mark.parametrize(
    ("wrong", "field_name"),
    [
        ({"job": 7}, "job"),
        ({"job": {"status": "succeeded"}}, "job"),
        ({"job": "two words"}, "job"),
        ({"job": [f"job-{n}" for n in range(21)]}, "job"),
        ({"job": "a", "channel": []}, "channels"),
        ({"job": "a", "channels": ["log", 3]}, "channels"),
        ({"job": "a", "channels": [f"c{n}" for n in range(21)]}, "channels"),
        ({"job": "a", "subject": "x" * 201}, "subject"),
        ({"job": "a", "subject": "two\nlines"}, "subject"),
        ({"job": "a", "body": "x" * 20_001}, "body"),
        ({"job": "a", "body": ""}, "body"),
        ({"job": "a", "dedup_key": "x" * 201}, "dedup_key"),
        ({"job": "a", "chanel": "log"}, "chanel"),
        ({}, "job"),
        ({"job": "a", "channel": "log", "channels": ["log"]}, "channel"),
    ],
)
def test_what_is_wrong_is_refused_by_the_name_of_its_field(wrong: dict[str, Any], field_name: str) -> None:
    with pytest.raises(ValidationError) as refused:
        SendNotificationRequest.model_validate(wrong)

    told = [
        ".".join(str(part) for part in problem["loc"]) + problem["msg"] for problem in refused.value.errors()
    ]
    assert field_name in " ".join(told)


def test_default_text_tells_dataset_count_and_the_top_three() -> None:
    services = world()

    outcome = perform(Context(), SendNotificationRequest(job="job-1"), services)

    ((subject, body),) = services.channels.find("log").sent  # type: ignore[union-attr]
    assert subject == "4 anomalies in machine temperature"
    assert body.splitlines() == [
        "4 anomalies in 22,695 rows of machine temperature (robust_z).",
        "1. 2013-12-16T17:21:00: score 11.5, value low (2.1)",
        "2. 2013-12-16T17:22:00: score 10.5, value low (2.1)",
        "3. 2013-12-16T17:23:00: score 9.5, value low (2.1)",
        "Job job-1",
    ]
    assert outcome.summary == {"delivered": ["log"], "already_delivered": [], "source_job_id": "job-1"}


def test_a_report_stands_for_the_jobs_it_reports_on() -> None:
    services = world()

    perform(Context(), SendNotificationRequest(job={"job_id": "report-1"}), services)

    assert services.channels.find("log").sent[0][0] == "4 anomalies in machine temperature"  # type: ignore[union-attr]


def test_given_words_are_sent_as_they_are_without_any_result() -> None:
    services = world()

    perform(Context(), SendNotificationRequest(subject="Hello", body="a\nb"), services)

    assert services.channels.find("log").sent == [("Hello", "a\nb")]  # type: ignore[union-attr]


def test_unknown_channel_is_refused_before_anything_is_sent() -> None:
    services = world()
    request = SendNotificationRequest(job="job-1", channels=("log", "pager"))

    with pytest.raises(InvalidRequest, match=r"channels: no channel named pager; known: log\.") as refused:
        perform(Context(), request, services)

    assert not refused.value.retryable
    assert services.channels.find("log").sent == []  # type: ignore[union-attr]


def test_a_job_without_a_result_is_not_found_and_not_tried_again() -> None:
    with pytest.raises(NotFound, match="job: job-9 has no result") as refused:
        perform(Context(), SendNotificationRequest(job="job-9"), world())

    assert not refused.value.retryable


def test_a_retry_sends_only_where_the_first_try_failed() -> None:
    ops, mail = Recorder(n_failures=1), Recorder()
    services = world(ops=ops, mail=mail)
    request = SendNotificationRequest(job="job-1", channels=("ops", "mail"))

    with pytest.raises(
        DeliveryFailed, match=r"channel ops: .* 500 \(delivered, not sent again: mail\)"
    ) as failed:
        perform(Context(), request, services)
    outcome = perform(Context(attempt=2), request, services)

    assert failed.value.retryable
    assert (len(ops.sent), len(mail.sent)) == (1, 1)
    assert outcome.summary["delivered"] == ["ops"]
    assert outcome.summary["already_delivered"] == ["mail"]
    assert services.deliveries.tries[("job-1", "ops")] == [  # type: ignore[attr-defined]
        "channel ops: the service answered with HTTP status 500",
        None,
    ]


def test_two_notifications_with_one_deduplication_key_are_sent_once() -> None:
    services = world()

    perform(Context("", "notice-1"), SendNotificationRequest(body="x", dedup_key="fire"), services)  # type: ignore[arg-type]
    perform(Context("", "notice-2"), SendNotificationRequest(body="x", dedup_key="fire"), services)  # type: ignore[arg-type]

    assert len(services.channels.find("log").sent) == 1  # type: ignore[union-attr]


def test_the_default_key_of_many_jobs_is_no_longer_than_a_key_may_be() -> None:
    request = SendNotificationRequest(
        job=tuple(f"{n}".rjust(255, "x") for n in range(20)), subject="s", body="b"
    )

    outcome = perform(Context(), request, world())

    assert len(outcome.detail["dedup_key"]) == 64


def test_importing_the_request_loads_neither_apprise_nor_jinja() -> None:
    code = (
        "import sys, pynomaly_tasks.kinds.send_notification, pynomaly_tasks.kinds.generate_report;"
        "print(sorted({'apprise', 'jinja2', 'requests', 'structlog', 'numpy'} & set(sys.modules)))"
    )

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert printed.stdout == "[]\n"
