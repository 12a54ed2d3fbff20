"""``pynomaly jobs`` and ``pynomaly dead-letters`` on a real store, broker and worker."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynomaly_tasks.core.job import AttemptOutcome, DeadReason, Job, JobError, JobState
from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.store.store import Store
from pynomaly_tasks.store.transitions import Settlement
from support.command_line import PYNOMALY, clean_environment, refused, run
from support.processes import ROOT
from support.raw_messages import raw_message
from support.stack import Stack, client
from support.stores import add, start

ROWS = [[n % 7, n % 11] for n in range(120)]


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Stack]:
    """A platform with a worker."""
    stack = Stack(tmp_path_factory.mktemp("working"), redis_server)
    with client(stack):
        try:
            stack.worker()
            yield stack
        finally:
            stack.close()


class Idle(Stack):
    """A platform whose jobs nobody works on, and which this process is no client of."""

    def __init__(self, directory: Path, redis: RedisServer) -> None:
        super().__init__(directory, redis)
        platform = Path(self.env["PYNOMALY_DATA__DIRECTORY"])
        self.store = Store(f"sqlite:///{platform / 'jobs.sqlite3'}")
        self.store.migrate()


@pytest.fixture
def idle(tmp_path: Path, own_redis: RedisServer) -> Iterator[Idle]:
    idle = Idle(tmp_path / "idle", own_redis)
    yield idle
    idle.store.close()


def _dead(idle: Idle, kind: str = "profile_dataset", message: str = "no luck", **request: object) -> Job:
    """A job that used its tries up."""
    job = start(idle.store, add(idle.store, kind=kind, request=request))
    end = Settlement(
        state=JobState.DEAD,
        outcome=AttemptOutcome.FAILED,
        error=JobError(type="Flaky", message=message),
        dead_reason=DeadReason.RETRIES_USED_UP,
    )
    return idle.store.settle(job.id, job.attempt, end).job


def test_submitted_job_is_run_waited_for_and_shown_whole(working: Stack) -> None:
    request = json.dumps({"dataset": working.csv("submitted.csv", ROWS)})

    done = run(
        "jobs", "submit", "profile_dataset", "-", "-o", "owner=me", "-o", 'tags=["a b"]', "--wait",
        env=working.env, stdin=request,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    job_id, *lines = done.stdout.splitlines()
    assert lines[-1] == f"{job_id} succeeded"
    shown = json.loads(run("jobs", "show", job_id, env=working.env).stdout)
    assert shown["job"]["owner"] == "me"
    assert shown["job"]["tags"] == ["a b"]
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["succeeded"]
    assert shown["result"]["detail"]["n_rows"] == len(ROWS)
    assert Path(shown["files"]["profile.json"]).is_file()


def test_waiting_for_a_failed_job_says_why_and_ends_with_1(working: Stack) -> None:
    numbers = working.csv("numbers.csv", [[row, row % 7] for row in range(50)])
    job = working.platform.submit("detect_anomalies", {"dataset": numbers, "label_column": "b"})

    done = run("jobs", "wait", job.id, env=working.env)

    assert done.returncode == 1
    assert re.fullmatch(rf"{job.id} failed: InvalidRequest: .+", done.stdout.splitlines()[-1])


def test_terminal_shows_a_live_bar(working: Stack) -> None:
    job = working.platform.submit("profile_dataset", {"dataset": working.csv("bar.csv", ROWS)})

    code, output = _on_a_terminal("jobs", "wait", job.id, env=working.env)

    assert code == 0, output
    assert "━" in output
    assert "\x1b[?25l" in output  # the cursor is hidden while the bar lives,
    assert output.rindex("\x1b[?25h") > output.index("\x1b[?25l")  # and shown again
    assert f"{job.id} succeeded" in output


def test_ctrl_c_while_waiting_ends_with_130_and_no_traceback(idle: Idle) -> None:
    job = add(idle.store)

    code, output = _on_a_terminal("jobs", "wait", job.id, env=idle.env, interrupt_at="queued")

    assert code == 130
    assert "Traceback" not in output
    assert output.rindex("\x1b[?25h") > output.index("\x1b[?25l")


def test_waiting_gives_up_when_the_time_is_up(idle: Idle) -> None:
    job = add(idle.store)

    assert (
        refused("jobs", "wait", job.id, "--timeout", "0.2", env=idle.env)
        == "not all jobs have ended after 0.2 s"
    )


def test_list_in_a_pipe_is_whole_and_in_columns(idle: Idle) -> None:
    message = "[red]no[/] " + "x" * 400 + "\n\x1b[2Jend"
    job = _dead(idle, message=message)
    add(idle.store, kind="send_notification")

    lines = run("jobs", "list", env=idle.env).stdout.splitlines()

    assert len(lines) == 3
    row = dict(zip(lines[0].split("\t"), lines[2].split("\t"), strict=True))
    assert row["job"] == job.id
    assert row["state"] == "dead"
    assert row["error"] == "Flaky: [red]no[/] " + "x" * 400 + "  [2Jend"
    [_, only] = run(
        "jobs", "list", "--state", "dead", "--kind", "profile_dataset", env=idle.env
    ).stdout.splitlines()
    assert only == lines[2]


def test_dry_runs_change_nothing(idle: Idle) -> None:
    store = idle.store
    queued, dead = add(store, tags=["nightly"]), _dead(idle)

    said = [
        run(*command, "--dry-run", env=idle.env).stdout
        for command in (
            ("jobs", "cancel", queued.id),
            ("jobs", "cancel", "--tag", "nightly"),
            ("jobs", "replay", dead.id),
            ("jobs", "replay", "--state", "dead"),
            ("dead-letters", "discard", "1"),
        )
    ]

    assert said == [
        f"{queued.id} is queued and would be cancelled\n",
        "1 job matches; nothing was changed\n",
        f"{dead.id} is dead and would be replayed\n",
        "1 job matches; nothing was changed\n",
        "1 would be discarded\n",
    ]
    assert {job.state for job in store.list_jobs()} == {JobState.QUEUED, JobState.DEAD}
    assert store.get_dead_letter(1).discarded_at is None


def test_cancel_by_id_goes_on_past_what_is_refused(idle: Idle) -> None:
    store = idle.store
    first, ended, last = add(store), _dead(idle), add(store)

    done = run("jobs", "cancel", first.id, ended.id, "nobody", last.id, "--reason", "old", env=idle.env)

    assert done.returncode == 1
    assert done.stdout == f"{first.id} cancelled\n{last.id} cancelled\n"
    assert done.stderr.splitlines() == [
        f"pynomaly: job {ended.id} has ended (dead); nothing is left to cancel",
        "pynomaly: there is no job nobody",
    ]


def test_cancel_by_filter(idle: Idle) -> None:
    store = idle.store
    mine, other = add(store, owner="me"), add(store, owner="you")

    done = run("jobs", "cancel", "--owner", "me", env=idle.env)

    assert (done.returncode, done.stdout) == (0, f"{mine.id}\n")
    assert store.get_job(mine.id).state is JobState.CANCELLED
    assert store.get_job(other.id).state is JobState.QUEUED


def test_replay_with_an_edit_makes_a_new_job_and_a_wrong_edit_names_the_field(idle: Idle) -> None:
    dataset = idle.csv("edited.csv", ROWS)
    dead = _dead(idle, kind="detect_anomalies", dataset=dataset, contamination=0.2)

    wrong = refused("jobs", "replay", dead.id, "-e", "contamination=0.9", env=idle.env)
    unknown = refused("jobs", "replay", dead.id, "-e", "contaminatoin=0.1", env=idle.env)
    done = run("jobs", "replay", dead.id, "-e", "contamination=null", "-e", "detector=ecod", env=idle.env)

    assert wrong.startswith("contamination: ")
    assert unknown.startswith("contaminatoin: there is no such field")
    new = idle.store.get_job(done.stdout.strip())
    assert new.replay_of == dead.id
    assert "contamination" not in new.request
    assert idle.store.get_dead_letter(1).replayed_as == new.id


def test_dead_letters_are_listed_shown_replayed_and_discarded(idle: Idle) -> None:
    dataset = idle.csv("dead.csv", ROWS)
    _dead(idle, dataset=dataset)
    _dead(idle, dataset=dataset)

    header, newest, _ = run("dead-letters", "list", env=idle.env).stdout.splitlines()
    shown = json.loads(run("dead-letters", "show", "1", env=idle.env).stdout)
    new = run("dead-letters", "replay", "1", env=idle.env).stdout.strip()
    again = refused("dead-letters", "replay", "1", env=idle.env)
    discarded = run("dead-letters", "discard", "--reason", "retries_used_up", env=idle.env).stdout

    assert dict(zip(header.split("\t"), newest.split("\t"), strict=True))["reason"] == "retries_used_up"
    assert shown["payload"] == {"dataset": dataset}
    assert "dead-letters replay 1" in shown["what_to_do"]
    assert idle.store.get_job(new).kind == "profile_dataset"
    assert new in again
    assert discarded == "2 discarded\n"
    assert run("dead-letters", "list", env=idle.env).stdout.count("\n") == 1
    assert refused("dead-letters", "discard", "2", env=idle.env).endswith("discarded or replayed before")
    assert refused("dead-letters", "show", "77", env=idle.env) == "there is no dead letter 77"


def test_unreadable_message_is_shown_and_its_replay_says_what_to_do(idle: Idle) -> None:
    idle.store.add_unreadable("reports", None, b"\xff\xfe", DeadReason.UNREADABLE, "it is no JSON")

    shown = json.loads(run("dead-letters", "show", "1", env=idle.env).stdout)
    said = refused("dead-letters", "replay", "1", env=idle.env)

    assert (shown["payload"], shown["payload_base64"]) == (None, "//4=")
    assert "never became a job" in said
    assert "dead-letters discard 1" in said


def test_message_of_another_process_is_sent_again_as_it_came(idle: Idle) -> None:
    raw = json.dumps(raw_message(task="pynomaly.tasks.of_a_later_version", queue="reports")).encode()
    idle.store.add_unreadable(
        "reports", "pynomaly.tasks.of_a_later_version", raw, DeadReason.UNKNOWN_TASK, "no worker here has it"
    )

    edited = refused("dead-letters", "replay", "1", "-e", "title=x", env=idle.env)
    replayed = run("dead-letters", "replay", "1", env=idle.env).stdout.strip()
    again = refused("dead-letters", "replay", "1", env=idle.env)
    with idle.redis.client(1) as broker:
        waiting = broker.lrange("reports", 0, -1)

    assert "without --edit" in edited
    assert replayed == json.loads(raw)["headers"]["id"]
    assert replayed in again
    assert waiting == [raw]


def test_arguments_of_another_process_are_submitted_when_they_are_mended(idle: Idle) -> None:
    payload = json.dumps({"args": [idle.csv("mended.csv", ROWS)], "kwargs": {"nonsense": 1}}).encode()
    idle.store.add_unreadable(
        "data_processing",
        "profile_dataset",
        payload,
        DeadReason.UNREADABLE,
        "nonsense: there is no such field",
    )

    as_they_are = refused("dead-letters", "replay", "1", env=idle.env)
    new = run("dead-letters", "replay", "1", "-e", "nonsense=null", env=idle.env).stdout.strip()

    assert as_they_are.startswith("nonsense: there is no such field")
    assert idle.store.get_job(new).kind == "profile_dataset"
    assert idle.store.get_dead_letter(1).replayed_as == new


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("jobs", "show", "nobody"), "there is no job nobody"),
        (("jobs", "wait", "nobody"), "there is no job nobody"),
        (("jobs", "replay", "nobody"), "there is no job nobody"),
        (("jobs", "submit", "nothing"), "kind: 'nothing' is unknown"),
        (("jobs", "submit", "profile_dataset"), "dataset: Field required"),
        (("jobs", "submit", "profile_dataset", "[]"), "request: is list, not an object"),
        (("jobs", "submit", "profile_dataset", '{"dataset": "/etc/passwd"}'), "dataset: "),
        (("jobs", "submit", "profile_dataset", "{}", "-o", "kind=1"), "kind: there is no such field"),
        (("jobs", "submit", "profile_dataset", "{}", "-o", "priority=10"), "priority: "),
    ],
)
def test_refusal_is_one_line_that_names_the_field(idle: Idle, arguments: tuple[str, ...], said: str) -> None:
    assert refused(*arguments, env=idle.env).startswith(said)


def test_job_is_taken_while_redis_is_down(idle: Idle) -> None:
    dataset = idle.csv("down.csv", ROWS)
    idle.redis.kill()

    done = run("jobs", "submit", "profile_dataset", json.dumps({"dataset": dataset}), env=idle.env)

    assert done.returncode == 0, done.stderr
    assert idle.store.get_job(done.stdout.strip()).state is JobState.QUEUED
    assert "publish_postponed" in done.stderr
    assert "Traceback" not in done.stderr


def test_store_that_is_down_is_one_line(idle: Idle) -> None:
    url = f"postgresql+psycopg://u:s3cret@127.0.0.1:{find_free_port()}/jobs"

    said = refused("jobs", "list", env={**idle.env, "PYNOMALY_STORE__URL": url})

    assert "the job store gave no answer" in said
    assert "s3cret" not in said


def test_reader_that_stops_reading_is_no_error(idle: Idle) -> None:
    for _ in range(3):
        _dead(idle, message="x" * 30_000)

    done = subprocess.run(
        f"{PYNOMALY} jobs list | head -1", shell=True, env=clean_environment(idle.env), cwd=ROOT,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.stdout.startswith("job\t")
    assert done.stderr == ""


def _on_a_terminal(*arguments: str, env: dict[str, str], interrupt_at: str = "") -> tuple[int, str]:
    """Exit code and output of the command on a terminal; Ctrl-C once the output holds ``interrupt_at``."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execve(PYNOMALY, [str(PYNOMALY), *arguments], {**clean_environment(env), "TERM": "xterm"})
    output = b""
    end = time.monotonic() + 60
    try:
        while time.monotonic() < end:
            if not select.select([terminal], [], [], 0.1)[0]:
                continue
            try:
                output += os.read(terminal, 65_536)
            except OSError:  # the other side is closed
                break
            if interrupt_at and interrupt_at.encode() in output:
                os.write(terminal, b"\x03")
                interrupt_at = ""
        else:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), output.decode()
