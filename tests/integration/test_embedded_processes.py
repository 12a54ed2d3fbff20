"""The supervisor behind `pynomaly up` and `pynomaly demo`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import psutil
import pytest

from pynomaly_tasks.embedded.processes import ProcessGroup, ProcessSpec
from pynomaly_tasks.errors import Unavailable
from support.processes import Programs
from support.waiting import wait_until

SLEEPER = "import signal, sys, time\nprint('ready', flush=True)\nsignal.pause()"
WRITES_ITS_END = """
import pathlib, signal, sys, time
def end(*_):
    with open(sys.argv[1], "a") as f: f.write(sys.argv[2] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
while True: signal.pause()
"""


def _spec(name: str, code: str, *arguments: str, **options) -> ProcessSpec:
    return ProcessSpec(name=name, command=[sys.executable, "-c", code, *arguments], ready="^ready", **options)


def test_stages_end_in_order_and_nothing_is_left(tmp_path: Path) -> None:
    ends = tmp_path / "ends"
    with ProcessGroup(tmp_path / "logs") as group:
        group.start(
            _spec("store", WRITES_ITS_END, str(ends), "store", stage=0),
            _spec("worker", WRITES_ITS_END, str(ends), "worker", stage=1),
            _spec("web", WRITES_ITS_END, str(ends), "web", stage=2),
        )
        pids = group.pids()
        assert set(pids) == {"store", "worker", "web"}

    assert ends.read_text().split() == ["web", "worker", "store"]
    assert not any(map(psutil.pid_exists, pids.values()))


def test_process_that_ignores_sigterm_is_killed_in_time(tmp_path: Path) -> None:
    stubborn = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPER
    group = ProcessGroup(tmp_path)
    group.start(_spec("stubborn", stubborn, stop_timeout_s=0.2))
    pid = group.pids()["stubborn"]

    group.stop()

    assert not psutil.pid_exists(pid)


def test_process_that_ends_before_it_is_ready_is_an_error_with_its_log(tmp_path: Path) -> None:
    with (
        ProcessGroup(tmp_path) as group,
        pytest.raises(Unavailable, match=r"(?s)broken ended with 3 after .*no such luck"),
    ):
        group.start(_spec("broken", "import sys; print('no such luck'); sys.exit(3)"))


def test_process_that_is_late_is_an_error(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group, pytest.raises(Unavailable, match="late is not ready after"):
        group.start(_spec("late", "import signal; signal.pause()", ready_timeout_s=0.3))


def test_killed_process_is_started_again_and_said(tmp_path: Path) -> None:
    exits: list[tuple[str, int]] = []
    stop = threading.Event()
    with ProcessGroup(tmp_path, restart=True, on_exit=lambda name, code: exits.append((name, code))) as group:
        group.start(_spec("worker", SLEEPER))
        first = group.pids()["worker"]
        watcher = threading.Thread(target=group.watch, args=(stop,))
        watcher.start()

        os.kill(first, signal.SIGKILL)

        wait_until(lambda: group.pids().get("worker", first) != first, 10.0, "another worker process")
        stop.set()
        watcher.join(10.0)
        assert exits == [("worker", -signal.SIGKILL)]
        assert group.n_restarts("worker") == 1


def test_without_restart_watch_returns_when_a_process_ends(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        group.start(_spec("worker", SLEEPER))
        os.kill(group.pids()["worker"], signal.SIGKILL)

        group.watch(threading.Event())

        assert group.check() == ["worker"]


PARENT = """
import pathlib, sys, threading
from pynomaly_tasks.embedded.processes import ProcessGroup, ProcessSpec
code = "import signal, subprocess as s; s.Popen(['sleep', '600']); print('ready', flush=True); signal.pause()"
with ProcessGroup(pathlib.Path(sys.argv[1]), restart=True) as group:
    group.start(*(ProcessSpec(name=n, command=[sys.executable, "-c", code], ready="ready") for n in "ab"))
    print("pids", *group.pids().values(), flush=True)
    group.watch(threading.Event())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_after_ctrl_c_or_sigkill_of_the_parent(
    programs: Programs, tmp_path: Path, number: int
) -> None:
    parent = programs.python("-c", PARENT, tmp_path)
    groups = {int(pid) for pid in parent.wait_for_output(r"^pids (\d+) (\d+)").groups()}
    assert len(_members(groups)) == 4

    parent.signal_leader(number)

    assert parent.wait(10.0)
    wait_until(lambda: not _members(groups), 10.0, "both process groups to be empty")


def _members(groups: set[int]) -> list[int]:
    alive = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) in groups and process.info["status"] != psutil.STATUS_ZOMBIE:
                alive.append(process.pid)
        except ProcessLookupError:
            continue
    return alive
