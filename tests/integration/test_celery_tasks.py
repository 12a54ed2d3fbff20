"""The platform's tasks are used as any Celery task is, on a real Redis with a real worker process."""

from __future__ import annotations

import json
import site
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from celery import chain, chord, group
from celery.exceptions import TaskRevokedError

from pynomaly_tasks import detect_anomalies, generate_report, profile_dataset, send_notification
from pynomaly_tasks.bootstrap import app
from pynomaly_tasks.core.job import AttemptOutcome, DeadReason, JobState
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import InvalidDataset, InvalidRequest
from pynomaly_tasks.store.reads import JobFilter
from support.gate import Gate
from support.stack import Stack, client, result_of
from support.waiting import wait_until

TIMEOUT_S = 60

#: Sends a task as a program that has Celery and nothing of ours: no package, no database.
STRANGER = """
import json, sys
sys.path.append(sys.argv[1])
try:
    import pynomaly_tasks
except ImportError:
    pass
else:
    sys.exit("the package can be imported: this shows nothing")
from celery import Celery
app = Celery(broker=sys.argv[2] + "/1", backend=sys.argv[2] + "/2")
request = json.loads(sys.argv[4])
result = app.send_task("pynomaly.tasks." + sys.argv[3], kwargs=request, queue=sys.argv[5], task_id=sys.argv[6])
try:
    print(json.dumps(result.get(timeout=60)))
except Exception as error:
    print(type(error).__name__, error)
"""


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
def busy(stack: Stack, gate: Gate, request: pytest.FixtureRequest) -> Iterator[str]:
    """The only slot is taken by a job, until the gate opens; its id."""
    gate.shut()
    subject = f"busy {request.node.name}"
    result = send_notification.delay(body="x", subject=subject, channels="gate")
    gate.wait_for(subject)
    yield result.id
    gate.open()
    stack.wait_for(result.id)


@pytest.fixture
def table(stack: Stack, tmp_path: Path) -> str:
    """100 rows, of which row 50 is far from the others."""
    rows = [[i % 7, (i * 3) % 5] for i in range(100)]
    rows[50] = [1_000, -1_000]
    return stack.csv(f"{tmp_path.name}.csv", rows)


def stranger(stack: Stack, task: str, request: object, queue: str, task_id: str) -> str:
    """What a foreign program got for its task."""
    command = [sys.executable, "-I", "-S", "-c", STRANGER, site.getsitepackages()[0], stack.redis.url]
    done = subprocess.run(
        [*command, task, json.dumps(request), queue, task_id],
        capture_output=True,
        text=True,
        env={"PATH": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


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


def test_state_goes_from_pending_over_progress_to_success(stack: Stack, gate: Gate, busy: str) -> None:
    waiting = send_notification.delay(body="x")
    running = result_of(busy)

    wait_until(lambda: running.state == "PROGRESS", TIMEOUT_S, "progress in Celery's state")
    assert running.info == {"current": 0, "total": 1, "status": "sending to gate"}
    assert waiting.state == "PENDING"

    gate.open()
    waiting.get(timeout=TIMEOUT_S)
    assert (waiting.state, running.state) == ("SUCCESS", "SUCCESS")


def test_countdown_waits_in_the_store_and_not_in_the_broker(stack: Stack, redis_server: RedisServer) -> None:
    result = send_notification.apply_async(kwargs={"body": "later"}, countdown=1.5)

    assert stack.platform.store.get_job(result.id).state is JobState.WAITING
    with redis_server.client(1) as broker:
        assert not [key for key in broker.scan_iter("notifications*") if not key.endswith(b"wake")]
    result.get(timeout=TIMEOUT_S)
    job = stack.platform.store.get_job(result.id)
    assert job.started_at is not None
    assert (job.started_at - job.created_at).total_seconds() >= 1.5


@pytest.mark.parametrize("aware", [True, False])
def test_eta_with_and_without_a_zone_is_utc(stack: Stack, aware: bool) -> None:
    eta = datetime.now(UTC) + timedelta(seconds=0.5)

    result = send_notification.apply_async(
        kwargs={"body": "x"}, eta=eta if aware else eta.replace(tzinfo=None)
    )

    result.get(timeout=TIMEOUT_S)
    assert abs(stack.platform.store.get_job(result.id).run_at - eta) < timedelta(milliseconds=1)


def test_priority_9_runs_before_0(stack: Stack, gate: Gate, busy: str) -> None:
    subjects = ["low", "high", "middle"]
    results = [
        send_notification.apply_async(
            kwargs={"body": "x", "subject": subject, "channels": "gate"}, priority=priority
        )
        for subject, priority in zip(subjects, [0, 9, 5], strict=True)
    ]

    gate.open()

    for result in results:
        result.get(timeout=TIMEOUT_S)
    assert [subject for subject in gate.subjects if subject in subjects] == ["high", "middle", "low"]


def test_queue_and_time_limit_reach_the_row(stack: Stack) -> None:
    result = send_notification.apply_async(kwargs={"body": "x"}, queue="reports", soft_time_limit=7)

    result.get(timeout=TIMEOUT_S)
    job = stack.platform.store.get_job(result.id)
    assert (job.queue, job.time_limit_s) == ("reports", 7)


def test_expired_job_is_a_dead_letter_and_get_says_so(stack: Stack, busy: str) -> None:
    result = send_notification.apply_async(kwargs={"body": "x"}, expires=0.5)

    with pytest.raises(Exception, match="deadline"):
        result.get(timeout=TIMEOUT_S)
    job = stack.wait_for(result.id)
    assert (job.state, job.dead_reason) == (JobState.DEAD, DeadReason.DEADLINE_PASSED)


def test_link_is_called_with_the_summary(stack: Stack, table: str) -> None:
    result = detect_anomalies.apply_async((table, "ecod"), link=generate_report.s(title="Linked"))

    result.get(timeout=TIMEOUT_S)
    [report] = result.children
    assert report.get(timeout=TIMEOUT_S)["source_job_id"] == result.id


def test_failure_propagates_with_its_type_and_message(
    stack: Stack, table: str, busy: str, gate: Gate
) -> None:
    result = detect_anomalies.delay(table, "ecod")
    Path(table).unlink()

    gate.open()

    with pytest.raises(InvalidDataset, match="does not exist"):
        result.get(timeout=TIMEOUT_S)
    assert result.state == "FAILURE"
    job = stack.platform.store.get_job(result.id)
    assert (job.state, job.attempt) == (JobState.FAILED, 1)
    assert job.error is not None
    assert job.error.type == "InvalidDataset"


def test_link_error_is_called_once_for_a_failed_job(stack: Stack, table: str, busy: str, gate: Gate) -> None:
    onward = send_notification.si(body="x", subject=f"failed {busy}", channels="gate")
    result = detect_anomalies.apply_async((table, "ecod"), link_error=onward)
    Path(table).unlink()
    gate.open()
    stack.wait_for(result.id)
    gate.wait_for(f"failed {busy}")

    stack.platform.queue.publish([stack.platform.store.get_job(result.id)])  # its message comes once more
    send_notification.delay(body="behind it").get(timeout=TIMEOUT_S)

    assert gate.subjects.count(f"failed {busy}") == 1
    with pytest.raises(InvalidDataset, match="does not exist"):
        result.get(timeout=TIMEOUT_S)


def test_error_in_a_chain_ends_it(stack: Stack, table: str, busy: str, gate: Gate) -> None:
    last = chain(detect_anomalies.s(table, "ecod"), generate_report.s()).apply_async()
    Path(table).unlink()

    gate.open()

    with pytest.raises(InvalidDataset):
        last.get(timeout=TIMEOUT_S)
    assert stack.platform.store.find_job(last.id) is None


def test_revoke_before_the_start_is_for_good(stack: Stack, busy: str, gate: Gate) -> None:
    result = send_notification.delay(body="x", subject="revoked", channels="gate")

    result.revoke()

    job = stack.wait_for(result.id)
    assert job.state is JobState.CANCELLED
    with pytest.raises(TaskRevokedError):
        result.get(timeout=TIMEOUT_S)
    gate.open()
    send_notification.delay(body="behind it").get(timeout=TIMEOUT_S)
    assert "revoked" not in gate.subjects
    assert stack.platform.store.get_job(result.id).attempt == 0


def test_revoke_of_a_job_that_waits_for_its_time_is_for_good(stack: Stack) -> None:
    result = send_notification.apply_async(kwargs={"body": "x"}, countdown=3_600)

    result.revoke()

    assert stack.wait_for(result.id).state is JobState.CANCELLED
    with pytest.raises(TaskRevokedError):
        result.get(timeout=TIMEOUT_S)


def test_revoke_leaves_a_running_job_alone_without_terminate(stack: Stack, busy: str, gate: Gate) -> None:
    app.control.revoke(busy, reply=True, timeout=10, limit=1)

    gate.open()

    assert stack.wait_for(busy).state is JobState.SUCCEEDED


def test_revoke_with_terminate_frees_the_slot_within_two_seconds(stack: Stack, busy: str, gate: Gate) -> None:
    following = send_notification.delay(body="x")
    asked_at = datetime.now(UTC)

    result_of(busy).revoke(terminate=True)

    following.get(timeout=TIMEOUT_S)
    started_at = stack.platform.store.get_job(following.id).started_at
    assert started_at is not None
    print(f"slot free after {(started_at - asked_at).total_seconds():.2f} s")
    assert started_at - asked_at < timedelta(seconds=2)
    assert stack.platform.store.get_job(busy).state is JobState.CANCELLED
    with pytest.raises(TaskRevokedError):
        result_of(busy).get(timeout=TIMEOUT_S)


def test_foreign_program_without_package_or_database_sends_a_task(stack: Stack, table: str) -> None:
    answer = stranger(
        stack, "detect_anomalies", {"dataset": table, "detector": "ecod"}, "anomaly_detection", "foreign-1"
    )

    assert json.loads(answer)["anomalies_found"] == 1
    job = stack.platform.store.get_job("foreign-1")
    assert (job.state, job.request["dataset"], job.queue) == (JobState.SUCCEEDED, table, "anomaly_detection")


def test_wrong_arguments_of_a_foreign_program_are_a_dead_letter(stack: Stack, table: str) -> None:
    request = {"dataset": table, "contamination": 0.9, "detecter": "ecod"}

    answer = stranger(stack, "detect_anomalies", request, "anomaly_detection", "foreign-2")

    assert answer.startswith("InvalidRequest")
    assert "contamination" in answer
    assert "detecter" in answer
    [letter] = [
        letter
        for letter in stack.platform.store.list_dead_letters(reason=DeadReason.UNREADABLE)
        if b'"detecter"' in letter.payload
    ]
    assert (letter.queue, letter.kind, letter.job_id) == ("anomaly_detection", "detect_anomalies", None)
    assert "contamination" in letter.message
    assert stack.platform.store.find_job("foreign-2") is None


def test_missing_file_of_a_foreign_program_is_a_failed_job(stack: Stack) -> None:
    answer = stranger(stack, "detect_anomalies", {"dataset": "/etc/passwd"}, "anomaly_detection", "foreign-3")

    assert answer.startswith("InvalidDataset")
    assert "allowed directories" in answer
    assert stack.platform.store.get_job("foreign-3").state is JobState.FAILED


def test_foreign_id_that_is_a_path_is_a_dead_letter(stack: Stack, table: str) -> None:
    answer = stranger(
        stack, "detect_anomalies", {"dataset": table}, "anomaly_detection", "../../etc/cron.d/x"
    )

    assert answer.startswith("InvalidRequest")
    assert "task_id" in answer


def test_repeated_delivery_of_a_done_job_calls_its_link_once(stack: Stack, table: str) -> None:
    result = detect_anomalies.apply_async((table, "ecod"), link=[generate_report.s(), send_notification.s()])
    result.get(timeout=TIMEOUT_S)
    store = stack.platform.store
    for child in wait_until(lambda: result.children, TIMEOUT_S, "the links to be called"):
        child.get(timeout=TIMEOUT_S)

    stack.platform.queue.publish([store.get_job(result.id)] * 3)
    detect_anomalies.delay(table, "ecod").get(timeout=TIMEOUT_S)

    children = [job for job in store.list_jobs(limit=1_000) if job.parent_id == result.id]
    assert sorted(job.kind for job in children) == ["generate_report", "send_notification"]
    assert [job.attempt for job in children] == [1, 1]
    assert [attempt.outcome for attempt in store.list_attempts(result.id)] == [AttemptOutcome.SUCCEEDED]


def test_chain_goes_on_after_its_worker_died_between_two_steps(
    stack: Stack, busy: str, gate: Gate, redis_server: RedisServer
) -> None:
    onward = send_notification.si(body="x", subject=f"after {busy}", channels="gate")
    last = chain(send_notification.s(body="x"), onward).apply_async()
    first = last.parent
    # What a worker does up to the settling, in this process; then it "dies", and its message with it.
    stack.platform.runner.run(first.id, "dead@worker#1")
    with redis_server.client(1) as broker:
        broker.delete(*[key for key in broker.keys("*") if key.startswith(b"notifications")])

    gate.open()

    assert last.get(timeout=TIMEOUT_S)["delivered"] == ["gate"]
    assert stack.platform.store.get_job(first.id).attempt == 1
    assert gate.subjects.count(f"after {busy}") == 1


def test_options_are_checked_in_the_caller(stack: Stack) -> None:
    n_jobs = stack.platform.store.count_jobs(JobFilter())

    for option in ({"priority": 10}, {"countdown": -1}, {"serializer": "pickle"}, {"colour": "red"}):
        with pytest.raises(InvalidRequest):
            send_notification.apply_async(kwargs={"body": "x"}, **option)

    assert stack.platform.store.count_jobs(JobFilter()) == n_jobs


def test_task_called_like_a_function_says_what_to_do(stack: Stack, table: str) -> None:
    with pytest.raises(TypeError, match=r"\.delay"):
        detect_anomalies(table)


def test_custom_headers_reach_every_message(stack: Stack, busy: str) -> None:
    result = send_notification.apply_async(kwargs={"body": "x"}, headers={"tenant": "blue"})

    job = stack.platform.store.get_job(result.id)
    assert job.envelope["headers"] == {"tenant": "blue"}
