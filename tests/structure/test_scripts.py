"""The scripts behind `make` and `.ci/run` are sound, and say what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [
    ROOT / ".ci" / "run",
    *sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix),
]
BASH = shutil.which("bash") or "/bin/bash"


def _run(script: str, *arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BASH, ROOT / "scripts" / script, *arguments],
        env={"PATH": str(path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def _fake(directory: Path, name: str, body: str) -> None:
    program = directory / name
    program.write_text(f"#!{BASH}\n{body}\n")
    program.chmod(0o755)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_executable_valid_and_stops_at_the_first_error(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert subprocess.run([BASH, "-n", script], check=False).returncode == 0
    assert "set -euo pipefail" in script.read_text("utf-8")


def test_python3_is_taken_when_it_is_new_enough(tmp_path: Path) -> None:
    _fake(tmp_path, "python3", "exit 0")
    _fake(tmp_path, "python3.13", "exit 0")

    assert _run("find_python", path=tmp_path).stdout.strip() == "python3"


def test_newest_python_that_runs_is_taken_where_python3_is_old(tmp_path: Path) -> None:
    _fake(tmp_path, "python3", "exit 1")
    _fake(tmp_path, "python3.13", "echo 'pyenv: python3.13: command not found' >&2; exit 127")
    _fake(tmp_path, "python3.12", "exit 0")
    _fake(tmp_path, "python3.11", "exit 0")

    assert _run("find_python", path=tmp_path).stdout.strip() == "python3.12"


def test_missing_python_says_what_to_install(tmp_path: Path) -> None:
    done = _run("find_python", path=tmp_path)

    assert done.returncode == 1
    assert "Python 3.11 or newer is needed" in done.stderr
    assert "apt-get install" in done.stderr


def test_without_root_and_sudo_the_command_to_run_is_named(tmp_path: Path) -> None:
    _fake(tmp_path, "id", "echo 1000")

    done = _run("as_root", "apt-get", "install", "redis-server", path=tmp_path)

    assert done.returncode == 1
    assert "sudo apt-get install redis-server" in done.stderr


def test_missing_test_servers_are_installed_by_name(tmp_path: Path) -> None:
    _fake(tmp_path, "id", "echo 0")
    _fake(tmp_path, "dirname", 'echo "${1%/*}"')
    _fake(tmp_path, "env", f'exec {shutil.which("env")} PATH={tmp_path} "$@"')
    _fake(tmp_path, "apt-get", f'echo "$@" >> {tmp_path}/asked')
    for name in ("bash", "initdb", "chromium"):
        (tmp_path / name).unlink(missing_ok=True)
        _fake(tmp_path, name, f'exec {BASH} "$@"' if name == "bash" else "exit 0")

    done = _run("install_test_servers", path=tmp_path)

    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[0].startswith("update")
    assert asked[1].endswith(" redis-server")


def test_continuous_integration_runs_what_the_makefile_offers() -> None:
    commands = [line for line in SCRIPTS[0].read_text("utf-8").splitlines() if line.startswith("make ")]

    assert sorted(commands) == ["make check", "make test"]
