"""``docker compose up`` as an operator runs it: every service healthy, a job done, a killed worker survived.

Needs a Docker engine with Compose 2.24.4 or newer: ``.venv/bin/pytest -m docker``.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.waiting import wait_until

ROOT = Path(__file__).parents[2]
KEY = "key-of-the-test-0123456789"
FINAL = {"succeeded", "failed", "cancelled", "dead"}
# Ports that the engine chooses, so that a platform that is up already is not in the way.
OVERRIDE = """
services:
  web: {ports: !override ["127.0.0.1::8080"]}
  flower: {ports: !override ["127.0.0.1::5555"]}
"""

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1_800)]


class Containers:
    """The services of docker-compose.yml, from a copy of what the repository holds."""

    def __init__(self, directory: Path) -> None:
        subprocess.run(["git", "checkout-index", "--all", f"--prefix={directory}/"], cwd=ROOT, check=True)
        settings = (ROOT / "config/production.env.example").read_text().replace("change-me", KEY)
        (directory / ".env").write_text(settings)
        (directory / "docker-compose.override.yml").write_text(OVERRIDE)
        self._directory = directory
        self._project = f"pynomaly-test-{os.getpid()}"

    def compose(self, *words: str) -> str:
        """What `docker compose` answers. Raises AssertionError with what it said."""
        done = subprocess.run(
            ["docker", "compose", "-p", self._project, *words],
            cwd=self._directory, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"docker compose {' '.join(words)}: {done.stdout[-2_000:]}{done.stderr}"
        return done.stdout

    def web(self) -> httpx.Client:
        """A client of the web page, with its key."""
        address = self.compose("port", "web", "8080").strip()
        return httpx.Client(base_url=f"http://{address}", headers={"X-API-Key": KEY}, timeout=30.0)


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    containers = Containers(tmp_path_factory.mktemp("compose"))
    try:
        containers.compose("up", "--build", "--detach", "--wait", "--wait-timeout", "900")
        yield containers
    finally:
        containers.compose("down", "--volumes", "--timeout", "30")


def _submitted(web: httpx.Client) -> str:
    table = (ROOT / "examples/data/adbench/glass.csv").read_bytes()
    upload = web.post("/api/v1/datasets", files={"file": ("glass.csv", table)})
    assert upload.status_code == 201, upload.text
    job = web.post(
        "/api/v1/jobs",
        json={"kind": "detect_anomalies", "request": {"dataset": upload.json()["source"]}},
    )
    assert job.status_code == 202, job.text
    return str(job.headers["location"])


def test_uploaded_table_is_examined(containers: Containers) -> None:
    with containers.web() as web:
        where = _submitted(web)
        wait_until(lambda: web.get(where).json()["state"] in FINAL, 120, "the job to end")

        assert web.get(where).json()["state"] == "succeeded"


def test_job_of_a_killed_worker_is_done_by_its_successor(containers: Containers) -> None:
    with containers.web() as web:
        containers.compose("kill", "worker-detection")
        where = _submitted(web)
        containers.compose("up", "--detach", "--wait", "worker-detection")
        wait_until(lambda: web.get(where).json()["state"] in FINAL, 120, "the job to end")

        assert web.get(where).json()["state"] == "succeeded"
