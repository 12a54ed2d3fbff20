"""``pynomaly up`` as its user has it: it stays up, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from support.processes import Program, Programs
from support.waiting import wait_until

READY_S = 60.0


@pytest.fixture
def up(programs: Programs, tmp_path: Path) -> Callable[[], Program]:
    env = {"PYNOMALY_DATA__DIRECTORY": str(tmp_path / "data"), "PYNOMALY_WEB__PORT": "0"}

    def start() -> Program:
        command = Path(sys.executable).with_name("pynomaly")
        return programs.start(command, "up", env=env, ready="Ctrl-C ends it", timeout_s=READY_S)

    return start


def _family(program: Program) -> list[psutil.Process]:
    return psutil.Process(program.pid).children(recursive=True)


def _one(program: Program, *words: str) -> psutil.Process:
    """The first process of the stack whose command line holds all the words."""
    return next(p for p in _family(program) if all(word in " ".join(p.cmdline()) for word in words))


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_it(up, number: int) -> None:
    program = up()
    family = _family(program)
    assert len(family) >= 5  # Redis, a worker with its children, the web page, beat, the guard

    program.signal_leader(number)

    assert program.wait(30.0)
    wait_until(lambda: not any(map(_lives, family)), 10.0, "every process of the platform to be gone")
    assert program.returncode == (-number if number == signal.SIGKILL else 0)


def test_what_dies_comes_back_and_jobs_go_on(up, programs: Programs, tmp_path: Path) -> None:
    program = up()
    page = program.wait_for_output(r"web page\s+(http://\S+)")[1]
    redis, worker = _one(program, "-server 127.0.0.1:"), _one(program, "workers.all")

    os.kill(redis.pid, signal.SIGKILL)
    os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: not _lives(redis) and not _lives(worker), 10.0, "both to be dead")

    table = tmp_path / "data" / "uploads" / "table.csv"
    table.write_text("a,b\n" + "".join(f"{n % 7},{n % 11}\n" for n in range(200)) + "900,-900\n")
    wait_until(lambda: _status(f"{page}/readyz") == 200, 30.0, "Redis to be back")
    submit = programs.start(
        Path(sys.executable).with_name("pynomaly"),
        "jobs", "submit", "profile_dataset", json.dumps({"dataset": str(table)}), "--wait",
        env={"PYNOMALY_DATA__DIRECTORY": str(tmp_path / "data")},
    )  # fmt: skip
    assert submit.wait(60.0), submit.log_tail()
    assert submit.returncode == 0, submit.log_tail(40)


def _status(address: str) -> int:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return int(answer.status)
    except OSError as error:
        return getattr(error, "code", 0)
