"""Events in ``pynomaly up``: from the store's outbox over the log to whoever watches."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from support.processes import Program, Programs
from support.waiting import wait_until

READY_S = 60.0
LIVE_S = 60.0


@pytest.fixture
def up(programs: Programs, tmp_path: Path) -> Program:
    return programs.start(
        Path(sys.executable).with_name("pynomaly"), "up",
        env={"PYNOMALY_DATA__DIRECTORY": str(tmp_path / "data"), "PYNOMALY_WEB__PORT": "0"},
        ready="Ctrl-C ends it", timeout_s=READY_S,
    )  # fmt: skip


class Watcher:
    """Reads ``/live`` in a thread, as a page does."""

    def __init__(self, response: httpx.Response) -> None:
        self._updates: queue.Queue[dict[str, Any]] = queue.Queue()
        self._response = response
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for line in self._response.iter_lines():
                if line.startswith("data:"):
                    self._updates.put(json.loads(line.removeprefix("data:")))
        except httpx.HTTPError:
            return  # the test is over

    def take_until(self, event: str) -> list[dict[str, Any]]:
        """Every update until the first of this event."""
        taken: list[dict[str, Any]] = []
        while not taken or taken[-1].get("event") != event:
            taken.append(self._updates.get(timeout=LIVE_S))
        return taken


@contextmanager
def watching(page: str) -> Iterator[Watcher]:
    with httpx.Client(timeout=LIVE_S) as client, client.stream("GET", f"{page}/live") as response:
        assert response.status_code == 200
        yield Watcher(response)


def _page(up: Program) -> str:
    return up.wait_for_output(r"web page\s+(http://\S+)")[1]


def _submit(page: str, directory: Path) -> str:
    table = directory / "data" / "uploads" / "table.csv"
    table.write_text("a,b\n" + "".join(f"{n % 7},{n % 11}\n" for n in range(200)) + "900,-900\n")
    answer = httpx.post(
        f"{page}/api/v1/jobs",
        json={"kind": "profile_dataset", "request": {"dataset": str(table)}},
        timeout=30.0,
    )
    assert answer.status_code < 300, answer.text
    return str(answer.json()["id"])


def test_job_of_the_embedded_platform_reaches_a_watcher_through_the_log(up: Program, tmp_path: Path) -> None:
    page = _page(up)

    with watching(page) as watcher:
        job_id = _submit(page, tmp_path)
        told = [one for one in watcher.take_until("job.completed") if one.get("job_id") == job_id]

    # Only what came over outbox, relay, log and consumer has the id of an event.
    events = [one["event"] for one in told if one.get("event_id")]
    assert events == ["job.submitted", "job.started", "job.completed"]
    assert len({one["event_id"] for one in told if one.get("event_id")}) == 3
    assert told[-1]["summary"]["status"] == "succeeded"


def test_events_wait_for_a_process_that_was_killed_and_come_in_order(up: Program, tmp_path: Path) -> None:
    page = _page(up)

    with watching(page) as watcher:
        [events] = [
            process
            for process in psutil.Process(up.pid).children(recursive=True)
            if "workers.events" in process.cmdline()
        ]
        os.kill(events.pid, signal.SIGKILL)
        wait_until(lambda: not events.is_running(), 10.0, "the process to be gone")
        job_id = _submit(page, tmp_path)
        told = [one for one in watcher.take_until("job.completed") if one.get("job_id") == job_id]

    assert "events ended with -9; it is started again" in up.output()
    assert [one["event"] for one in told if one.get("event_id")] == [
        "job.submitted", "job.started", "job.completed",
    ]  # fmt: skip
