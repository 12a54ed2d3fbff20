"""``pynomaly config check`` names the setting that is wrong, and no process starts with wrong ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.embedded.redis_server import RedisServer
from support.command_line import clean_environment, refused, run
from support.processes import ROOT


@pytest.fixture
def env(redis_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    return {"PYNOMALY_REDIS__URL": redis_server.url, "PYNOMALY_DATA__DIRECTORY": str(tmp_path / "data")}


def test_platform_that_works_passes_and_nothing_is_left(env: dict[str, str], tmp_path: Path) -> None:
    done = run(
        "config", "check", env={**env, "PYNOMALY_NOTIFICATIONS__CHANNELS": '{"ops": "json://localhost/x"}'}
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert {line.split(" (")[0] for line in done.stdout.splitlines()} >= {
        "store: ok",
        "broker",
        "channel ops",
    }
    assert all(line.endswith(": ok") for line in done.stdout.splitlines())
    assert not list((tmp_path / "data" / "artifacts").iterdir())


def test_every_setting_that_is_wrong_is_named_at_once(env: dict[str, str], tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no directory")
    gone = f"redis://:s3cret@127.0.0.1:{find_free_port()}/1"

    done = run(
        "config", "check",
        env={
            **env,
            "PYNOMALY_STORE__URL": f"postgresql+psycopg://u:s3cret@127.0.0.1:{find_free_port()}/jobs",
            "PYNOMALY_REDIS__BROKER_URL": gone,
            "PYNOMALY_REDIS__RESULTS_URL": gone,
            "PYNOMALY_REDIS__STREAMS_URL": gone,
            "PYNOMALY_DATA__ROOTS": f'["{tmp_path}/nowhere"]',
            "PYNOMALY_DATA__ARTIFACTS_URL": str(blocked),
            "PYNOMALY_NOTIFICATIONS__CHANNELS": '{"ops": "s3cret-service://x"}',
        },
    )  # fmt: skip

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "s3cret" not in done.stderr
    wrong = {line.split(":")[0] for line in done.stderr.splitlines()}
    assert wrong == {
        "store",
        "broker (redis.url, redis.broker_url)",
        "results (redis.url, redis.results_url)",
        "streams (redis.url, redis.streams_url)",
        "events (events.backend, redis_streams)",
        f"datasets in {tmp_path}/nowhere (data.roots)",
        "artifacts (data.artifacts_url)",
        "channel ops (notifications.channels)",
    }


@pytest.mark.parametrize(
    "command",
    [
        ("celery", "-A", "workers.all", "worker"),
        ("celery", "-A", "workers.beat", "beat"),
        ("celery", "-A", "workers.flower", "flower"),
        ("workers.web",),
        ("pynomaly_tasks.cli", "up"),
        ("pynomaly_tasks.cli", "demo"),
        ("pynomaly_tasks.cli", "jobs", "list"),
    ],
)
def test_no_process_starts_with_contradictory_settings(command: tuple[str, ...], tmp_path: Path) -> None:
    wrong = {
        "PYNOMALY_DATA__DIRECTORY": str(tmp_path / "data"),
        "PYNOMALY_WEB__HOST": "0.0.0.0",
    }

    done = subprocess.run(
        [sys.executable, "-m", *command], env=clean_environment(wrong), cwd=ROOT,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("pynomaly")
    assert "web.host (0.0.0.0) is not loopback, so web.api_key must be set" in line
    assert not (tmp_path / "data").exists()


def test_directory_that_cannot_be_written_is_one_line(env: dict[str, str], tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no directory")

    for command in (("jobs", "list"), ("up",), ("demo",)):
        assert str(blocked) in refused(
            *command, env={**env, "PYNOMALY_DATA__DIRECTORY": str(blocked / "data")}
        )


def test_migrate_makes_the_tables_and_says_where(env: dict[str, str], tmp_path: Path) -> None:
    first, again = run("store", "migrate", env=env), run("store", "migrate", env=env)

    assert first.stdout == again.stdout
    assert first.stdout.startswith(f"sqlite:///{tmp_path / 'data' / 'jobs.sqlite3'} is at ")


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("REDIS__URL", "redis://:pa/s3cret@h"),
        ("REDIS__BROKER_URL", "redis://:s3cret@h:s3cret"),
        ("STORE__URL", "postgresql+psycopg://u:pa/s3cret@h/jobs"),
    ],
)
def test_address_that_cannot_be_parsed_names_its_setting_and_no_secret(
    env: dict[str, str], name: str, url: str
) -> None:
    said = refused("config", "check", env={**env, f"PYNOMALY_{name}": url})

    assert name.lower().replace("__", ".") in said
    assert "percent-encoded" in said
    assert "s3cret" not in said


def test_file_that_is_no_database_is_one_line(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database " * 1_000)

    said = refused("jobs", "list", env={**env, "PYNOMALY_STORE__URL": f"sqlite:///{tmp_path / 'text'}"})

    assert said == "the job store cannot be read: file is not a database"
