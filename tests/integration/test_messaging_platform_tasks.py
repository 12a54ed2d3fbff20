"""The platform's own work as tasks over message queues, and from the command line, without Celery."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner

from pynomaly_tasks.bootstrap import Platform
from pynomaly_tasks.cli import pynomaly
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import InvalidInput, NoHandler
from pynomaly_tasks.hybrid.platform_tasks import KIND_OF, build_tasks, task_files
from pynomaly_tasks.messaging import QueueManager, build_backend
from pynomaly_tasks.messaging.tasks import Tasks, TaskState, TaskType, TaskWorker
from support.jobs import settings_from
from support.processes import ROOT, Programs
from support.waiting import wait_until

T = TypeVar("T")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A hundred quiet values and one loud one, in row 50."""
    file = tmp_path / "data" / "uploads" / "values.csv"
    file.parent.mkdir(parents=True)
    rows = [f"{n % 7},{n % 5}" for n in range(100)]
    rows[50] = "900,-900"
    file.write_text("\n".join(["x,y", *rows]) + "\n")
    return file


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    platform = Platform(settings_from({"PYNOMALY_DATA__DIRECTORY": str(tmp_path / "data")}))
    yield platform
    platform.close()


def with_tasks(platform: Platform, action: Callable[[Tasks], Awaitable[T]]) -> T:
    async def run() -> T:
        async with QueueManager(build_backend("memory")) as manager:
            return await action(build_tasks(manager, platform))

    return asyncio.run(run())


def test_detection_report_and_notification_follow_one_another(platform: Platform, data: Path) -> None:
    async def scenario(tasks: Tasks) -> tuple[list[Any], list[Any]]:
        found = await tasks.submit_task("anomaly_detection", {"dataset": str(data), "detector": "ecod"})
        profile = await tasks.submit_task("data_profiling", {"dataset": str(data)})
        report = await tasks.submit_task(
            "report_generation", {"job": [found, profile]}, after=[found, profile]
        )
        told = await tasks.submit_task("notification", {"job": report, "channel": "log"}, after=[report])
        await TaskWorker(tasks).run_once()
        ids = (found, profile, report, told)
        return [await tasks.get_task(each) for each in ids], [await tasks.get_result(each) for each in ids]

    shown, results = with_tasks(platform, scenario)
    detection, profile, report, told = results
    files = task_files(platform)

    assert [each.state for each in shown] == [TaskState.SUCCEEDED] * 4
    assert detection["summary"]["anomalies_found"] >= 1
    assert json.loads(files.read_bytes(detection["files"]["detail.json"]))["anomalies"][0]["row"] == 50
    assert set(detection["files"]) == {"scores.parquet", "detail.json"}
    assert json.loads(files.read_bytes(profile["files"]["detail.json"]))["n_rows"] == 100
    html = files.read_bytes(report["files"]["report.html"]).decode()
    assert "values.csv" in html
    assert shown[0].id in json.dumps(report["summary"])
    assert told["summary"]["delivered"] == ["log"]
    assert shown[0].progress is not None
    assert platform.store.list_jobs() == []


def test_bad_arguments_are_refused_at_the_door_as_a_job_s(platform: Platform, data: Path) -> None:
    async def scenario(tasks: Tasks) -> list[str]:
        problems = []
        for task_type, arguments in (
            ("anomaly_detection", {"dataset": str(data), "detector": "none such"}),
            ("anomaly_detection", {"dataset": "/no/such/file.csv"}),
            ("data_profiling", {}),
            ("report_generation", {"job": "x", "wrong": 1}),
            ("notification", {}),
        ):
            with pytest.raises(InvalidInput) as caught:
                await tasks.submit_task(task_type, arguments)
            problems.append(str(caught.value))
        assert await tasks.list_tasks() == []
        return problems

    problems = with_tasks(platform, scenario)

    assert "none such" in problems[0]
    assert "lies outside the allowed directories" in problems[1]
    assert "dataset" in problems[2]
    assert "wrong: there is no such field" in problems[3]
    assert "give `job`, or a `body`" in problems[4]


def test_types_without_work_of_the_platform_s_need_a_handler(platform: Platform) -> None:
    async def scenario(tasks: Tasks) -> set[str]:
        refused = set()
        for task_type in set(TaskType) - set(KIND_OF) - {"cleanup"}:
            with pytest.raises(NoHandler, match="register one with add_handler"):
                await tasks.submit_task(task_type)
            refused.add(str(task_type))
        return refused

    assert with_tasks(platform, scenario) == {
        "model_training", "data_processing", "export", "import", "validation"
    }  # fmt: skip


def test_report_about_a_task_that_is_none_fails_and_says_so(platform: Platform) -> None:
    async def scenario(tasks: Tasks) -> Any:
        task_id = await tasks.submit_task("report_generation", {"job": str(uuid.uuid4())})
        await TaskWorker(tasks).run_once()
        return await tasks.get_task(task_id)

    ended = with_tasks(platform, scenario)

    assert (ended.state, ended.attempt, ended.error.type) == (TaskState.FAILED, 1, "NotFound")


def test_cleanup_removes_the_files_of_old_tasks_only(platform: Platform, tmp_path: Path) -> None:
    old, new = "01890000-0000-7000-8000-000000000000", None
    file = tmp_path / "file"
    file.write_text("x")
    files = task_files(platform)
    files.put(old, 1, "file", file)

    async def scenario(tasks: Tasks) -> tuple[str, Any]:
        task_id = await tasks.submit_task("notification", {"body": "hello"})
        cleanup = await tasks.submit_task("cleanup", after=[task_id])
        await TaskWorker(tasks).run_once()
        return task_id, await tasks.get_result(cleanup)

    new, removed = with_tasks(platform, scenario)

    assert removed == {"n_removed": 0, "n_tasks_removed": 1}
    assert files.list_ids() == [new]


HANDLERS = """
import asyncio

async def export(context):
    context.progress(1, 2, "exporting")
    return {"exported": context.arguments["rows"]}

async def hang(context):
    await asyncio.Event().wait()

def register(tasks):
    tasks.add_handler("export", export)
    tasks.add_handler("import", hang)
"""


@pytest.fixture
def env(
    monkeypatch: pytest.MonkeyPatch, no_settings: None, redis_server: RedisServer, tmp_path: Path
) -> dict[str, str]:
    """The environment of commands here and in other processes."""
    (tmp_path / "my_task_handlers.py").write_text(HANDLERS)
    env = {
        "PYNOMALY_MESSAGING__URL": f"{redis_server.url}/7",
        "PYNOMALY_MESSAGING__NAMESPACE": f"test:{uuid.uuid4().hex}",
        "PYNOMALY_DATA__DIRECTORY": str(tmp_path / "data"),
        "PYTHONPATH": f"{ROOT}:{tmp_path}",
    }
    for name, value in env.items():
        if name.startswith("PYNOMALY_"):
            monkeypatch.setenv(name, value)
    return env


def command(*arguments: str) -> str:
    done = CliRunner().invoke(pynomaly, ["messaging", "tasks", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


def refused(*arguments: str) -> str:
    done = CliRunner().invoke(pynomaly, ["messaging", "tasks", *arguments])
    assert done.exit_code == 1, done.output
    return done.stderr


def test_commands_submit_watch_cancel_and_run(env: dict[str, str], data: Path, programs: Programs) -> None:
    assert "no process has a handler for 'export'" in refused("submit", "export")
    early = command("submit", "export", '{"rows": 3}', "--even-without-handler", "--priority", "9")
    worker = programs.python(
        "-m", "pynomaly_tasks.cli", "messaging", "tasks", "worker", "--handlers", "my_task_handlers:register",
        env=env, ready="^takes .*export",
    )  # fmt: skip
    child = command("submit", "export", '{"rows": 4}', "--after", early)
    hangs = command("submit", "import", "--key", "once")
    detection = json.dumps({"dataset": str(data), "detector": "ecod"})
    found = json.loads(command("submit", "anomaly_detection", detection, "--wait", "60"))

    def shown(task_id: str) -> dict[str, Any]:
        return json.loads(command("status", task_id))  # type: ignore[no-any-return]

    wait_until(lambda: shown(child)["state"] == "succeeded", 20.0, "the child to succeed")
    wait_until(lambda: shown(hangs)["state"] == "running", 20.0, "the other to run")
    cancelled = command("cancel", hangs, "--reason", "enough")
    again = command("submit", "import", "--key", "once")
    listed = [line.split("\t") for line in command("list").splitlines()]
    worker.signal_group(signal.SIGTERM)
    wait_until(lambda: not worker.is_running(), 10.0, "the worker to end")

    assert found["summary"]["anomalies_found"] >= 1
    assert shown(child)["result"] == {"exported": 4}
    assert shown(early)["progress"]["status"] == "exporting"
    assert (cancelled, command("cancel", hangs)) == ("cancelled", "it had ended; nothing was changed")
    assert again == hangs
    assert shown(hangs)["error"]["message"] == "enough"
    assert sorted(row[2] for row in listed[1:]) == ["cancelled", *["succeeded"] * 3]
    assert worker.returncode == 0


def test_commands_refuse_what_cannot_be(env: dict[str, str]) -> None:
    assert "arguments: are no JSON" in refused("submit", "export", "{")
    assert "arguments: must map names" in refused("submit", "export", "[1]")
    assert "at: " in refused("submit", "export", "--at", "tomorrow")
    assert "with a time zone" in refused("submit", "export", "--at", "2026-12-24T18:00:00")
    assert "there is no task" in refused("status", "nothing")
    assert "the states are waiting" in refused("list", "--state", "done")
    assert "cannot be imported" in refused("worker", "--handlers", "no.such:thing")
    assert "has no handler" in refused("worker", "--types", "export")
