"""Each file under ``workers/`` is one process that Celery's own commands start and see."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from pynomaly_tasks import cleanup, monitor_health, profile_dataset, rescue
from pynomaly_tasks.bootstrap import app
from pynomaly_tasks.core.job import DeadReason, JobState
from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.embedded.redis_server import RedisServer
from support.stack import Stack, client
from support.waiting import wait_until

TIMEOUT_S = 60
QUEUES = {
    "detection": "anomaly_detection",
    "processing": "data_processing",
    "reports": "reports",
    "notifications": "notifications",
    "default": "default",
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Stack]:
    """One worker for each queue, as the Procfile starts them."""
    stack = Stack(tmp_path_factory.mktemp("stack"), redis_server)
    with client(stack):
        try:
            for module in QUEUES:
                started_s = time.monotonic()
                stack.worker(f"workers.{module}", name=module)
                print(f"workers.{module} ready after {time.monotonic() - started_s:.2f} s")
            yield stack
        finally:
            stack.close()


def _pop_all(redis_server: RedisServer, queue: str) -> list[bytes]:
    with redis_server.client(1) as broker:
        return [item for key in broker.keys(f"{queue}*") for item in broker.lrange(key, 0, -1)]


def test_each_worker_consumes_its_own_queue_alone(stack: Stack) -> None:
    active = app.control.inspect(timeout=5.0, limit=len(QUEUES)).active_queues()

    assert {
        node.split("@")[0].rstrip("0123456789"): [queue["name"] for queue in queues]
        for node, queues in active.items()
    } == {module: [queue] for module, queue in QUEUES.items()}


def test_queue_option_of_the_command_line_wins(stack: Stack) -> None:
    worker = stack.worker("workers.detection", "-Q", "data_processing,reports", "-c", "1", name="chosen")
    try:
        active = app.control.inspect(timeout=5.0).active_queues()
        [queues] = [queues for node, queues in active.items() if node.startswith("chosen")]
    finally:
        worker.stop(20.0)

    assert sorted(queue["name"] for queue in queues) == ["data_processing", "reports"]


def test_inspect_ping_of_the_command_line_answers(stack: Stack) -> None:
    command = [sys.executable, "-m", "celery", "-A", "workers.all", "inspect", "ping", "--json", "-t", "5"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout[done.stdout.index("{") :])
    assert len(answers) == len(QUEUES)
    assert all(answer == {"ok": "pong"} for answer in answers.values())


def test_housekeeping_tasks_run(stack: Stack) -> None:
    assert rescue.delay().get(timeout=TIMEOUT_S)["n_republished"] == 0
    assert cleanup.delay().get(timeout=TIMEOUT_S) == {"n_removed": 0}
    assert monitor_health.delay().get(timeout=TIMEOUT_S)["type"] == "health"


def test_beat_sends_every_entry_and_they_run(stack: Stack) -> None:
    [default] = [program for program in stack.programs.started if "-default" in program.log.name]
    n_before = default.output().count("succeeded in")

    beat = stack.programs.start(
        sys.executable, "-m", "celery", "-A", "workers.beat", "beat", "--enable-remote-control", "-n", "beat@%h",
        name="beat", env=stack.env,
    )  # fmt: skip
    try:
        for task in ("monitor_health", "cleanup", "rescue"):
            wait_until(
                lambda task=task: f"Task pynomaly.tasks.{task}" in default.output()[n_before:],
                TIMEOUT_S,
                f"{task} to run",
            )
        answers = wait_until(
            lambda: [
                node for node in app.control.inspect(timeout=2.0).ping() or {} if node.startswith("beat@")
            ],
            TIMEOUT_S,
            "beat to answer a ping",
        )
    finally:
        beat.stop(20.0)

    assert len(answers) == 1
    assert beat.returncode == 0


def test_flower_lists_a_job_with_name_arguments_and_state(stack: Stack) -> None:
    port = find_free_port()
    flower = stack.programs.start(
        sys.executable, "-m", "celery", "-A", "workers.flower", "flower", "--address=127.0.0.1", f"--port={port}",
        name="flower", env={**stack.env, "FLOWER_UNAUTHENTICATED_API": "true"},
    )  # fmt: skip
    path = stack.csv("flower.csv", [[1, 2], [3, 4]])

    def tasks() -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/tasks", timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return {}

    def shown() -> dict[str, Any] | None:
        # Flower shows what it heard of after its own start, which nothing announces.
        job_id = profile_dataset.delay(path).get(timeout=TIMEOUT_S)["job_id"]
        seen = tasks().get(job_id)
        return seen if seen and seen["state"] == "SUCCESS" else None

    try:
        seen = wait_until(shown, TIMEOUT_S, "a job in Flower's list", every_s=0.5)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/queues/length", timeout=5) as answer:
            lengths = json.load(answer)["active_queues"]
    finally:
        flower.stop(20.0)

    assert seen["name"] == "pynomaly.tasks.profile_dataset"
    assert json.loads(seen["kwargs"]) == {"dataset": path}
    assert seen["worker"].startswith("processing")
    assert {"name": "data_processing", "messages": 0} in lengths


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        pytest.param(
            [[], {}, {}], {"task": "no.such.task", "id": "u1"}, DeadReason.UNKNOWN_TASK, id="unknown"
        ),
        pytest.param({"hello": "world"}, {}, DeadReason.UNREADABLE, id="not-a-task"),
        pytest.param(
            b"\xff\xfenot json",
            {"task": "pynomaly.tasks.generate_report", "id": "u3"},
            DeadReason.UNREADABLE,
            id="not-json",
        ),
    ],
)
def test_message_that_is_no_job_is_kept_with_its_bytes_and_the_worker_lives(
    stack: Stack, redis_server: RedisServer, body: object, headers: dict[str, Any], reason: DeadReason
) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    message = {
        "body": base64.b64encode(raw).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", **headers},
        "properties": {
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "reports"},
            "delivery_tag": f"tag-{reason}-{len(raw)}",
            "body_encoding": "base64",
            "priority": 0,
        },
    }

    sent = json.dumps(message).encode()

    with redis_server.client(1) as broker:
        broker.lpush("reports", sent)

    # What Celery could not decode is kept as the whole message, the rest as its body.
    letter = wait_until(
        lambda: next(
            (one for one in stack.platform.store.list_dead_letters() if one.payload in (raw, sent)), None
        ),
        TIMEOUT_S,
        "the dead letter",
    )
    assert (letter.reason, letter.queue, letter.job_id) == (reason, "reports", None)
    assert len(app.control.inspect(timeout=5.0, limit=len(QUEUES)).ping()) == len(QUEUES)
    assert not _pop_all(redis_server, "reports")


def test_job_on_each_queue_is_run_by_its_worker(stack: Stack) -> None:
    path = stack.csv("owned.csv", [[i, i % 3] for i in range(50)])
    detection = stack.platform.submit("detect_anomalies", {"dataset": path, "detector": "ecod"})
    profile = stack.platform.submit("profile_dataset", {"dataset": path})

    assert stack.wait_for(detection.id).state is JobState.SUCCEEDED
    assert stack.wait_for(profile.id).state is JobState.SUCCEEDED
    workers = [stack.platform.store.list_attempts(job.id)[0].worker for job in (detection, profile)]
    assert [worker.split("@")[0].rstrip("0123456789") for worker in workers] == ["detection", "processing"]
