"""What is installed is the whole of the package: templates, scripts and migrations too."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return next(directory.glob("*.whl"))


def _files(*parts: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "--", *parts],
                            cwd=ROOT, capture_output=True, text=True, check=True).stdout  # fmt: skip
    return {name for name in listed.splitlines() if (ROOT / name).exists()}


def test_wheel_holds_every_file_of_the_package_and_of_the_workers(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}

    assert names == _files("pynomaly_tasks", "workers")


def test_wheel_has_the_topics_of_events(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.read("pynomaly_tasks/events/kafka_topics.yaml")

    assert packed == (ROOT / "config" / "kafka_topics.yaml").read_bytes()


def test_wheel_has_the_command_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        texts = {
            name.rpartition(".dist-info/")[2]: name for name in archive.namelist() if ".dist-info/" in name
        }
        commands = archive.read(texts["entry_points.txt"]).decode()

    assert "pynomaly = pynomaly_tasks.cli:main" in commands
    assert "licenses/LICENSE" in texts


def test_installed_wheel_finds_its_templates_and_migrations_elsewhere(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    env = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(tmp_path / "site"),
        "PYNOMALY_DATA__DIRECTORY": str(tmp_path / "d"),
    }
    code = "from pynomaly_tasks.cli import main; print(main.__code__.co_filename, flush=True); main()"

    done = subprocess.run(
        [sys.executable, "-c", code, "store", "migrate"],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site") in done.stdout
    assert (tmp_path / "d" / "jobs.sqlite3").exists()
