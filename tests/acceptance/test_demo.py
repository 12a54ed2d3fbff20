"""``pynomaly demo`` as its user has it: real results, and nothing left of it however it ends."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path

import psutil
import pytest

from pynomaly_tasks.embedded.stack import EmbeddedStack
from pynomaly_tasks.errors import Conflict
from pynomaly_tasks.settings import Settings
from pynomaly_tasks.settings.engine import DataSettings
from support.command_line import PYNOMALY
from support.processes import Program, Programs
from support.waiting import wait_until


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """With a production's settings beside it, which the demo must leave alone."""
    return {
        "PYNOMALY_DATA__DIRECTORY": str(tmp_path / "data"),
        "PYNOMALY_REDIS__BROKER_URL": "redis://production.invalid/1",
        "PYNOMALY_STORE__URL": "postgresql+psycopg://production.invalid/jobs",
    }


def _family(program: Program) -> list[psutil.Process]:
    return psutil.Process(program.pid).children(recursive=True)


def _is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _nobody_listens(address: str) -> bool:
    host, port = re.fullmatch(r"https?://([\w.]+):(\d+)", address).groups()
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


def _assert_nothing_is_left(family: list[psutil.Process], address: str, directory: Path) -> None:
    wait_until(lambda: all(map(_is_gone, family)), 10.0, "every process of the demo to be gone")
    assert _nobody_listens(address)
    assert not (directory / "data" / "demo" / "embedded.env").exists()


def test_demo_finds_the_known_anomalies_and_leaves_nothing_behind(
    programs: Programs, env: dict[str, str], tmp_path: Path
) -> None:
    program = programs.start(PYNOMALY, "demo", env=env, ready=r"web page http", timeout_s=60.0)
    family = _family(program)
    assert len(family) >= 4  # Redis, the web page, a worker with its children

    assert program.wait(120.0), program.log_tail(60)
    text = program.output()

    assert program.returncode == 0, text
    assert text.rstrip().endswith("`make up` starts the platform to keep.")
    for step in ("detect   taxi series", "detect   heart table", "profile  heart table",
                 "report   taxi series", "notify   taxi series"):  # fmt: skip
        assert f"{step} succeeded" in text
    found = [
        tuple(map(float, each))
        for each in re.findall(r"precision ([\d.]+), recall ([\d.]+), auc_roc ([\d.]+)", text)
    ]
    assert len(found) == 2
    assert found[1][2] > 0.9  # the heart table; the taxi labels are windows, found each:
    assert "5 of 5 known incidents found" in text
    report = Path(re.search(r"^report   (/\S+)$", text, re.MULTILINE)[1])
    assert report.read_text().startswith("<!doctype html>")
    address = re.search(r"web page (http://\S+)", text)[1]
    _assert_nothing_is_left(family, address, tmp_path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_demo_leaves_nothing_behind(
    programs: Programs, env: dict[str, str], tmp_path: Path, number: int, code: int
) -> None:
    program = programs.start(PYNOMALY, "demo", env=env, ready=r"running", timeout_s=90.0)
    family = _family(program)
    address = program.wait_for_output(r"web page (http://\S+)")[1]

    program.signal_leader(number)

    assert program.wait(30.0)
    assert program.returncode == code
    assert "Traceback" not in program.output()
    _assert_nothing_is_left(family, address, tmp_path)


def test_failing_script_ends_the_platform_and_gives_its_exit_code(
    programs: Programs, env: dict[str, str], tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from pynomaly_tasks import current_platform\n"
        "url = current_platform().settings.redis.broker()\n"
        "assert url.startswith('redis://127.0.0.1:'), url\n"
        "assert 'demo' in current_platform().settings.store_url()\n"
        "print('it was reached', flush=True)\n"
        "sys.exit(7)\n"
    )

    program = programs.start(PYNOMALY, "demo", str(script), env=env, ready=r"web page http", timeout_s=90.0)
    family = _family(program)

    assert program.wait(60.0)
    assert "it was reached" in program.output()
    assert program.returncode == 7
    _assert_nothing_is_left(family, program.wait_for_output(r"web page (http://\S+)")[1], tmp_path)


def test_second_platform_in_one_directory_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    settings = Settings(data=DataSettings(directory=tmp_path / "data"))
    first, second = EmbeddedStack(settings, isolated=True), EmbeddedStack(settings, isolated=True, fresh=True)
    first._take_directory()
    kept = tmp_path / "data" / "kept"
    kept.write_text("kept")

    with pytest.raises(Conflict, match="another embedded platform runs in"):
        second.start()
    second.stop()

    assert kept.read_text() == "kept"
    first.stop()


def test_environment_of_a_platform_leads_to_no_other_redis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: dict[str, str]
) -> None:
    for name, value in {**env, "PYNOMALY_JOBS__LEASE_S": "7"}.items():
        monkeypatch.setenv(name, value)
    settings = Settings(data=DataSettings(directory=tmp_path))
    stack = EmbeddedStack(settings)
    stack._redis._port = 1

    environment = stack.environment

    assert "PYNOMALY_REDIS__BROKER_URL" not in environment
    assert environment["PYNOMALY_REDIS__URL"] == "redis://127.0.0.1:1"
    assert environment["PYNOMALY_JOBS__LEASE_S"] == "7"
