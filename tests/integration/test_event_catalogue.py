"""What the store really writes is what the catalogue describes: jobs of every end, real kinds, and what people do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from pynomaly_tasks.bootstrap import Platform
from pynomaly_tasks.core.audit_events import Actor, user_at
from pynomaly_tasks.core.event import Event
from pynomaly_tasks.core.job import AttemptOutcome, DeadReason, Job, JobState
from pynomaly_tasks.core.trace import is_traceparent, traceparent_of
from pynomaly_tasks.core.work_events import AnomalyDetected
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import InvalidRequest
from pynomaly_tasks.events.catalog import CATALOG
from pynomaly_tasks.events.cloudevents import decode, encode
from pynomaly_tasks.events.ports import StoredRecord
from pynomaly_tasks.events.schemas import json_schema
from pynomaly_tasks.jobs.context import JobContext, Kind, Outcome
from pynomaly_tasks.jobs.submission import Submission
from pynomaly_tasks.queueing.kept import replay_message
from pynomaly_tasks.store.transitions import Settlement
from pynomaly_tasks.tasks import maintenance
from pynomaly_tasks.web.app import create_app
from support.jobs import Engine, settings_from
from support.processes import Programs
from support.stores import start, told, told_of
from support.waiting import wait_until

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SCHEMAS = {each.type: Draft202012Validator(json_schema(each)) for each in CATALOG}


def check(events: list[Event]) -> list[Event]:
    """Every one goes through the codec unchanged and is as its JSON Schema says."""
    assert events
    for event in events:
        record = encode(event, "/here")
        stored = StoredRecord(
            topic=record.topic, key=record.key, value=record.value, headers=record.headers,
            partition=0, offset=0, at=datetime.now(UTC),
        )  # fmt: skip
        read = decode(stored)
        assert (read.id, read.type, read.key, read.data) == (event.id, event.type, event.key, event.data)
        assert list(SCHEMAS[event.type].iter_errors(event.data)) == []
        assert is_traceparent(event.traceparent or "") or event.topic in ("audit_events", "system_events")
    return events


class NothingAsked(BaseModel):
    """The request of a kind that needs to know nothing."""


def types(events: list[Event]) -> list[str]:
    return [event.type for event in events]


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path, programs: Programs
) -> Iterator[Engine]:
    """One worker with two slots, and its store."""
    with redis_server.client(1) as broker:
        broker.flushall()
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    engine = Engine(tmp_path / "engine", programs, redis_server.url, store_url=url)
    engine.worker(slots=2)
    yield engine
    engine.close()


def test_events_of_jobs_of_every_end_are_as_the_catalogue_says(engine: Engine) -> None:
    gate = engine.gate()
    done = engine.submit({"tags": ["nightly"], "owner": "ana"})
    retried = engine.submit({"backoff_s": 0.1}, fail_attempts=1)
    killed = engine.submit(kill_attempts=1)
    hopeless = engine.submit(fail_attempts=1, retryable=False)
    dead = engine.submit({"max_retries": 0}, fail_attempts=9)
    late = engine.submit({"delay_s": 3600.0})
    running = engine.submit(gate=str(gate))
    engine.wait_for_start(running)
    for job in (late, running):
        engine.platform.cancel(job.id, "not needed")
    jobs = [engine.wait_for(job) for job in (done, retried, killed, hopeless, dead, late, running)]

    check(told(engine.platform.store))
    store = engine.platform.store
    assert types(told_of(store, done.id)) == ["job.submitted", "job.started", "job.completed"]
    assert types(told_of(store, retried.id)) == [
        "job.submitted", "job.started", "job.retrying", "job.queued", "job.started", "job.completed",
    ]  # fmt: skip
    assert types(told_of(store, killed.id)) == [
        "job.submitted", "job.started", "job.retrying", "job.started", "job.completed",
    ]  # fmt: skip
    assert types(told_of(store, hopeless.id)) == ["job.submitted", "job.started", "job.failed"]
    assert types(told_of(store, dead.id)) == ["job.submitted", "job.started", "job.dead_lettered"]
    assert types(told_of(store, late.id)) == ["job.submitted", "job.cancelled"]
    assert types(told_of(store, running.id)) == ["job.submitted", "job.started", "job.cancelled"]
    for job in jobs:
        assert told_of(store, job.id)[-1].data["state"] == job.state.value
        assert {event.traceparent for event in told_of(store, job.id)} == {traceparent_of(job.id, job.id)}


def test_events_say_what_a_dashboard_shows(engine: Engine) -> None:
    job = engine.wait_for(
        engine.submit({"tags": ["nightly"], "owner": "ana", "backoff_s": 0.1}, fail_attempts=1)
    )

    submitted, started, retrying, *_, completed = (e.data for e in told_of(engine.platform.store, job.id))

    assert (submitted["owner"], submitted["tags"], submitted["attempt"]) == ("ana", ["nightly"], 0)
    assert started["worker"].startswith("w")
    assert retrying["error"] == {"type": "Flaky", "message": "attempt 1 fails, as it was told"}
    assert (retrying["n_failed"], retrying["max_retries"], retrying["state"]) == (1, 3, "waiting")
    assert completed["summary"] == job.summary
    assert completed["result"] == f"/api/v1/jobs/{job.id}/result"
    assert (completed["attempt"], completed["state"]) == (2, "succeeded")


def test_trace_of_a_message_goes_on_in_the_events_of_its_job_and_of_its_chain(engine: Engine) -> None:
    first = engine.celery.signature(
        "pynomaly.tasks.act", kwargs=engine.request(), headers={"traceparent": TRACE}
    )
    then = engine.celery.signature("pynomaly.tasks.act", kwargs=engine.request(), immutable=True)
    result = (first | then).apply_async()

    for job_id in (result.parent.id, result.id):
        wait_until(lambda: _has_ended(engine, job_id), 30.0, f"job {job_id} to end")  # noqa: B023 - called at once
        assert {event.traceparent for event in told_of(engine.platform.store, job_id)} == {TRACE}


def _has_ended(engine: Engine, job_id: str) -> bool:
    return types(told_of(engine.platform.store, job_id))[-1:] == ["job.completed"]


@pytest.fixture
def platform(redis_server: RedisServer, tmp_path: Path) -> Iterator[Platform]:
    """Runs jobs in this process."""
    with redis_server.client(1) as broker:
        broker.flushall()
    env = {"PYNOMALY_REDIS__URL": redis_server.url, "PYNOMALY_DATA__DIRECTORY": str(tmp_path / "platform")}
    platform = Platform(settings_from(env))
    yield platform
    platform.close()


def run(platform: Platform, kind: str, request: Mapping[str, Any], **options: Any) -> Job:
    """Submit it, and run it here."""
    job = platform.submit(kind, request, **options)
    return platform.runner.run(job.id, "w1").job


def dataset(platform: Platform, n_rows: int = 400) -> str:
    """A series with a spike every 100 rows."""
    lines = [f"{row % 7 + (500 if row % 100 == 50 else 0)},{row % 3}" for row in range(n_rows)]
    file = platform.settings.uploads_directory() / "spikes.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(["price,amount", *lines]))
    return file.name


def events_of(platform: Platform, job: Job, kind: str) -> list[Event]:
    return [
        event
        for event in check(told(platform.store))
        if event.type == kind and event.data["job_id"] == job.id
    ]


def test_a_detection_tells_its_anomalies_before_its_end(platform: Platform) -> None:
    job = run(platform, "detect_anomalies", {"dataset": dataset(platform)}, ordering_key="spikes")

    [event] = events_of(platform, job, "anomaly.detected")

    assert job.state is JobState.SUCCEEDED
    assert (event.topic, event.key) == ("anomaly_events", "spikes")
    assert event.data["n_anomalies"] == job.summary["anomalies_found"] == len(event.data["anomalies"])
    assert event.data["dataset"] == "spikes.csv"
    first = event.data["anomalies"][0]
    assert (first["rank"], first["row"] % 100, first["causes"][0]["column"]) == (1, 50, "price")
    names = types(told(platform.store))
    assert names.index("anomaly.detected") < names.index("job.completed")


def test_a_kind_whose_event_no_consumer_could_read_fails_by_the_name_of_the_field(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    def perform(context: JobContext, request: Any, services: Any) -> Outcome:
        facts = {"n_scored": 1, "n_anomalies": -1, "batch": 1, "n_batches": 1, "anomalies": ()}
        event = AnomalyDetected(
            job_id=context.job_id, result="/", dataset="x", detector="mine", threshold=0.5, **facts
        )
        return Outcome(events=[event])

    env = {"PYNOMALY_REDIS__URL": redis_server.url, "PYNOMALY_DATA__DIRECTORY": str(tmp_path / "platform")}
    kind = Kind(name="mine", queue="default", request_model=NothingAsked, perform=perform)
    platform = Platform(settings_from(env), kinds={"mine": kind})

    job = run(platform, "mine", {})

    assert (job.state, job.error.type) == (JobState.FAILED, "InvalidInput")
    assert job.error.message.startswith("events.anomaly.detected.n_anomalies: ")
    assert types(check(told(platform.store))) == ["job.submitted", "job.started", "job.failed"]
    platform.close()


def test_many_anomalies_come_in_events_of_a_hundred_in_order(platform: Platform) -> None:
    request = {"dataset": dataset(platform, 2_500), "contamination": 0.1, "top_n": 230}

    job = run(platform, "detect_anomalies", request)
    found = events_of(platform, job, "anomaly.detected")

    assert [(e.data["batch"], e.data["n_batches"], len(e.data["anomalies"])) for e in found] == [
        (1, 3, 100), (2, 3, 100), (3, 3, 30),
    ]  # fmt: skip
    ranks = [anomaly["rank"] for event in found for anomaly in event.data["anomalies"]]
    assert ranks == list(range(1, 231))
    assert {event.data["n_anomalies"] for event in found} == {job.summary["anomalies_found"]}


def test_a_profile_a_report_and_a_notification_tell_of_themselves(platform: Platform) -> None:
    detection = run(platform, "detect_anomalies", {"dataset": dataset(platform)})
    profile = run(platform, "profile_dataset", {"dataset": "spikes.csv"})
    report = run(platform, "generate_report", {"job": detection.id})
    notification = run(platform, "send_notification", {"job": detection.id})

    [profiled] = events_of(platform, profile, "dataset.profiled")
    [ready] = events_of(platform, report, "report.ready")
    [sent] = events_of(platform, notification, "notification.sent")

    assert (profiled.data["n_rows"], profiled.data["n_columns"], profiled.data["format"]) == (400, 2, "csv")
    assert [column["name"] for column in profiled.data["columns"]] == ["price", "amount"]
    assert ready.data["source_job_ids"] == [detection.id]
    assert ready.data["files"]["report.html"] == f"/api/v1/jobs/{report.id}/files/report.html"
    assert (sent.data["channels"], sent.data["source_job_ids"]) == (["log"], [detection.id])


def test_a_notification_that_fails_tells_which_channels_have_it_and_which_not(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    env = {
        "PYNOMALY_REDIS__URL": redis_server.url,
        "PYNOMALY_DATA__DIRECTORY": str(tmp_path / "platform"),
        "PYNOMALY_NOTIFICATIONS__CHANNELS": json.dumps({"crm": "json://127.0.0.1:1/"}),
    }
    platform = Platform(settings_from(env))
    request = {"subject": "Hello", "body": "There", "channels": ["log", "crm"]}

    job = run(platform, "send_notification", request, backoff_s=1.0)

    assert job.state is JobState.WAITING
    [sent] = events_of(platform, job, "notification.sent")
    [failed] = events_of(platform, job, "notification.failed")
    assert sent.data["channels"] == ["log"]
    assert list(failed.data["errors"]) == ["crm"]
    assert failed.data["attempt"] == 1
    names = types(told(platform.store))
    assert names.index("notification.failed") < names.index("job.retrying")
    platform.close()


def test_passwords_of_a_dataset_are_in_no_event(platform: Platform) -> None:
    request = {"dataset": "postgresql://ana:hush@127.0.0.1:1/sales?password=hush"}
    job = platform.submitter.adopt(Submission(kind="profile_dataset", request=request))
    ended = platform.runner.run(job.id, "w1").job

    events = check(told(platform.store))

    assert ended.state is not JobState.SUCCEEDED
    assert "hush" not in json.dumps([dict(event.data) for event in events])
    assert events[0].data["dataset"] == "postgresql://ana:***@127.0.0.1:1/sales?password=***"


def test_the_callers_trace_is_in_the_events_and_in_the_message(platform: Platform) -> None:
    job = platform.submit("profile_dataset", {"dataset": dataset(platform)}, traceparent=TRACE)

    assert {event.traceparent for event in told_of(platform.store, job.id)} == {TRACE}
    assert platform.store.get_job(job.id).envelope["headers"] == {"traceparent": TRACE}


def test_a_trace_that_is_none_is_refused_by_its_name(platform: Platform) -> None:
    with pytest.raises(InvalidRequest, match="traceparent"):
        platform.submit("profile_dataset", {"dataset": dataset(platform)}, traceparent="00-abc")


def test_jobs_of_one_ordering_key_share_it_as_key_and_wait_their_turn(platform: Platform) -> None:
    source = dataset(platform)
    jobs = [platform.submit("profile_dataset", {"dataset": source}, ordering_key="sales") for _ in range(2)]
    for job in jobs:
        platform.runner.run(job.id, "w1")

    events = check(told(platform.store, "job_events"))

    assert {event.key for event in events} == {"sales"}
    assert types(told_of(platform.store, jobs[1].id))[:3] == ["job.submitted", "job.queued", "job.started"]
    states = [event.data.get("state", "succeeded") for event in told_of(platform.store, jobs[1].id)]
    assert states == ["waiting", "queued", "running", "running", "succeeded"] or states[:2] == [
        "waiting",
        "queued",
    ]


def test_what_people_do_is_told_with_who_did_it(platform: Platform) -> None:
    ana = Actor(name="ana", door="cli")
    job = platform.submit("profile_dataset", {"dataset": dataset(platform)})
    platform.cancel(job.id, "wrong file", actor=ana)
    again = platform.replay(job.id, {"n_bins": 5}, actor=ana)
    dead = platform.submit("profile_dataset", {"dataset": "spikes.csv"})
    platform.store.bury(dead.id, DeadReason.DEADLINE_PASSED, "too late")
    [letter] = platform.store.list_dead_letters()
    platform.store.discard(letter.id, ana)

    cancelled, replayed, discarded = check(told(platform.store, "audit_events"))

    assert (cancelled.type, cancelled.data["reason"]) == ("audit.job.cancel_requested", "wrong file")
    assert cancelled.data["state"] == "queued"
    assert (replayed.type, replayed.data["job_id"]) == ("audit.job.replayed", job.id)
    assert (replayed.data["new_job_id"], replayed.data["edited"]) == (again.id, ["n_bins"])
    assert (discarded.type, discarded.data["letter"]) == (
        "audit.dead_letter.discarded",
        f"dead letter {letter.id}",
    )
    assert {event.data["actor"] for event in (cancelled, replayed, discarded)} == {"ana"}


def test_who_is_not_named_is_the_user_of_the_process(platform: Platform) -> None:
    job = platform.submit("profile_dataset", {"dataset": dataset(platform)})

    platform.cancel(job.id)

    [event] = check(told(platform.store, "audit_events"))
    assert (event.data["actor"], event.data["door"]) == (user_at("python").name, "python")


def test_a_running_job_is_asked_to_stop_once_however_often_somebody_asks(platform: Platform) -> None:
    job = platform.submit("profile_dataset", {"dataset": dataset(platform)})
    platform.store.claim(job.id, "w1", 60.0)

    for _ in range(3):
        platform.cancel(job.id)

    assert types(check(told(platform.store, "audit_events"))) == ["audit.job.cancel_requested"]


def test_web_tells_the_client_and_takes_its_trace(platform: Platform) -> None:
    job = {"kind": "profile_dataset", "request": {"dataset": dataset(platform)}}

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(create_app(platform), client=("192.0.2.7", 5))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as web:
            uploaded = await web.post("/api/v1/datasets", files={"file": ("up.csv", b"a,b\n1,2\n3,4\n")})
            accepted = await web.post("/api/v1/jobs", json=job, headers={"traceparent": TRACE})
            path = f"/api/v1/jobs/{accepted.json()['id']}/cancel"
            cancelled = await web.post(path, json={"reason": "typo"})
            untraced = await web.post("/api/v1/jobs", json=job, headers={"traceparent": "garbage"})
            return [uploaded, accepted, cancelled, untraced]

    answers = asyncio.run(ask())

    assert [answer.status_code for answer in answers] == [201, 202, 202, 202]
    upload, cancel = check(told(platform.store, "audit_events"))
    assert (upload.type, upload.data["dataset"], upload.data["size_bytes"]) == (
        "audit.dataset.uploaded",
        "up.csv",
        12,
    )
    for event in (upload, cancel):
        assert (event.data["actor"], event.data["door"], event.data["address"]) == (
            "anyone",
            "web",
            "192.0.2.7",
        )
    traced, untraced = (told_of(platform.store, answers[number].json()["id"]) for number in (1, 3))
    assert {event.traceparent for event in traced} == {TRACE}
    assert TRACE not in {event.traceparent for event in check(untraced)}


def test_a_health_report_is_told_with_the_jobs_of_each_queue(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.submit("profile_dataset", {"dataset": dataset(platform)})
    monkeypatch.setattr(maintenance, "current_platform", lambda: platform)

    maintenance.monitor_health()

    [event] = check(told(platform.store, "system_events"))
    assert (event.type, event.data["jobs"]) == ("system.health", {"data_processing": {"queued": 1}})
    assert event.data["messages_ready"] == {"data_processing": 1}


def test_a_message_that_was_no_job_and_is_sent_again_is_told(platform: Platform) -> None:
    dataset(platform)
    arguments = json.dumps({"args": [], "kwargs": {"dataset": "spikes.csv", "bins": 5}}).encode()
    platform.store.add_unreadable(
        "data_processing", "profile_dataset", arguments, DeadReason.UNREADABLE, "bins?"
    )
    [letter] = platform.store.list_dead_letters()

    job_id = replay_message(platform, letter, {"bins": None, "n_bins": 5}, Actor(name="ana", door="cli"))

    [event] = check(told(platform.store, "audit_events"))
    assert event.type == "audit.dead_letter.replayed"
    assert (event.data["replayed_as"], event.data["edited"]) == (job_id, ["bins", "n_bins"])


def test_a_summary_too_large_for_an_event_is_told_by_its_usual_values(platform: Platform) -> None:
    job = platform.submit("profile_dataset", {"dataset": dataset(platform)})
    start(platform.store, job)
    usual = {"job_id": job.id, "status": "succeeded", "anomalies_found": None, "processing_time": 1.5}
    platform.store.settle(
        job.id,
        1,
        Settlement(
            state=JobState.SUCCEEDED,
            outcome=AttemptOutcome.SUCCEEDED,
            summary={**usual, "much": "x" * 100_000},
        ),
    )

    completed = check(told(platform.store))[-1]

    assert completed.data["summary"] == usual


def test_numbers_of_the_outbox_rise_in_the_order_of_the_facts(platform: Platform) -> None:
    for _ in range(3):
        run(platform, "profile_dataset", {"dataset": dataset(platform)})

    entries = platform.store.list_unsent(100)

    assert all(one.number < other.number for one, other in pairwise(entries))
