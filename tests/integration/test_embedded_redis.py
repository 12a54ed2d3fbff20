"""The embedded Redis, and the promise that no child process outlives its parent."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest
import redis

from pynomaly_tasks.embedded.child import Child
from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.embedded.redis_server import RedisServer, bundled_redis_binary, find_redis_binary
from pynomaly_tasks.errors import BrokerUnavailable
from support.processes import Programs
from support.waiting import wait_until


@pytest.fixture(params=[find_redis_binary, bundled_redis_binary], ids=["on_path", "bundled"])
def server(request: pytest.FixtureRequest, tmp_path: Path):
    with RedisServer(tmp_path / "redis", binary=request.param()) as server:
        yield server


def test_data_survives_sigkill_and_restart_on_the_same_port(server: RedisServer) -> None:
    port = server.port
    with server.client(1) as client:
        client.set("name", "value")

    server.restart()

    assert server.port == port
    with server.client(1) as client:
        assert client.get("name") == b"value"


def test_restart_empty_forgets_everything(server: RedisServer) -> None:
    with server.client() as client:
        client.set("name", "value")

    server.restart(empty=True)

    with server.client() as client:
        assert client.dbsize() == 0


def test_flavour_names_program_and_version(server: RedisServer) -> None:
    assert server.flavour.startswith(("redis-server ", "valkey-server "))


def test_stopped_server_is_gone_and_may_be_started_again(server: RedisServer) -> None:
    pid = server.pid

    server.stop()

    assert not psutil.pid_exists(pid)
    server.start()
    with server.client() as client:
        assert client.ping()


def test_full_memory_refuses_writes_and_answers_ping(tmp_path: Path) -> None:
    with RedisServer(tmp_path, maxmemory="2mb") as server, server.client() as client:
        with pytest.raises(redis.OutOfMemoryError):
            for n in range(100):
                client.set(str(n), b"x" * 100_000)

        assert client.ping()


def test_taken_port_is_an_error_with_the_end_of_the_log(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", find_free_port())) as taken:
        server = RedisServer(tmp_path, port=taken.getsockname()[1])

        with pytest.raises(BrokerUnavailable, match="Address already in use"):
            server.start()


PARENT = """
import sys, pathlib
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.embedded.child import Child
directory = pathlib.Path(sys.argv[1])
server = RedisServer(directory / "redis").start()
# A child with a child of its own, which ignores the signal that asks it to end.
tree = Child(["/bin/sh", "-c", "trap '' TERM; sleep 600 & wait; sleep 600"], log=directory / "tree.log")
print("pids", server.pid, tree.pid, flush=True)
sys.stdin.read() if len(sys.argv) < 3 else __import__("signal").pause()
"""


def _members(group: int) -> list[int]:
    alive = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                alive.append(process.pid)
        except ProcessLookupError:
            continue
    return alive


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_child_outlives_a_parent_that_was_killed(programs: Programs, tmp_path: Path, number: int) -> None:
    parent = programs.python("-c", PARENT, tmp_path, "pause")
    groups = [int(pid) for pid in parent.wait_for_output(r"^pids (\d+) (\d+)").groups()]
    assert all(_members(group) for group in groups)

    parent.signal_leader(number)

    wait_until(lambda: not any(map(_members, groups)), 10.0, "the children to be gone")


def test_no_child_outlives_a_parent_that_ends_by_itself(programs: Programs, tmp_path: Path) -> None:
    parent = programs.python("-c", PARENT, tmp_path)
    groups = [int(pid) for pid in parent.wait_for_output(r"^pids (\d+) (\d+)").groups()]

    assert parent.wait(10.0)

    assert parent.returncode == 0
    wait_until(lambda: not any(map(_members, groups)), 10.0, "the children to be gone")


def test_stop_kills_what_ignores_sigterm_and_its_children(tmp_path: Path) -> None:
    child = Child([sys.executable, "-c", "import signal, subprocess\n"
                   "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
                   "subprocess.Popen(['sleep', '600'])\nprint('up', flush=True)\nsignal.pause()"],
                  log=tmp_path / "log")  # fmt: skip
    wait_until(lambda: "up" in child.log_tail(), 10.0, "the child to be up")

    code = child.stop(timeout_s=0.2)

    assert code == -signal.SIGKILL
    assert _members(child.pid) == []


def test_missing_program_is_said_in_its_log(tmp_path: Path) -> None:
    child = Child(["/nonexistent/program"], log=tmp_path / "log")

    assert child.wait(5.0)

    assert child.returncode == 127
    assert "/nonexistent/program" in child.log_tail()
    child.kill()


def test_parent_that_forgets_to_stop_ends_without_a_word(programs: Programs, tmp_path: Path) -> None:
    code = (
        "import pathlib, sys\nfrom pynomaly_tasks.embedded.redis_server import RedisServer\n"
        "print('pid', RedisServer(pathlib.Path(sys.argv[1])).start().pid, flush=True)"
    )
    parent = programs.python("-W", "error", "-c", code, tmp_path)

    assert parent.wait(10.0)

    pid = int(parent.wait_for_output(r"^pid (\d+)\n\Z")[1])
    wait_until(lambda: not psutil.pid_exists(pid), 5.0, "the server to be gone")
