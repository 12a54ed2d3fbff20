"""RabbitMQ for tests: one node with an epmd of its own, on free loopback ports and in its own directory.

Each wait has an end; a node that cannot be started fails the test and shows its log.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest

from pynomaly_tasks.embedded.child import Child
from pynomaly_tasks.embedded.ports import find_free_ports
from support.waiting import wait_until

USER = "guest"
PASSWORD = "guest"

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0
_PORT_TRIES = 5

#: Debian's wrapper in /usr/sbin changes to the user `rabbitmq` and its directories; the script behind it does not.
_SCRIPTS = tuple(
    Path(place, name)
    for name in ("rabbitmq-server", "rabbitmqctl")
    for place in ("/usr/lib/rabbitmq/bin", "/usr/sbin")
)

#: Small, and quiet: no second listener, no disk alarm on a machine whose disk is nearly full.
_SETTINGS = """
listeners.tcp.1 = 127.0.0.1:{port}
num_acceptors.tcp = 2
vm_memory_high_watermark.absolute = 512MB
disk_free_limit.absolute = 1MB
log.console = true
log.console.level = info
log.file = false
{more}
"""

#: Ra's log is written in pieces of 512 MB by default, each reserved in memory.
_ADVANCED = "[{ra, [{wal_max_size_bytes, 16000000}]}].\n"


def _program(name: str) -> Path:
    candidates = [path for path in _SCRIPTS if path.name == name]
    candidates += [Path("/usr/bin", name), *([Path(found)] if (found := shutil.which(name)) else [])]
    for path in candidates:
        if path.exists():
            return path
    pytest.fail(f"{name} is not installed: run scripts/install_test_servers (package rabbitmq-server)")


class RabbitServer:
    """One RabbitMQ; on disk until `close`."""

    def __init__(self, directory: Path | None = None, *, settings: str = "") -> None:
        """Nothing runs yet. ``settings``: more lines of rabbitmq.conf."""
        self.directory = directory or Path(tempfile.mkdtemp(prefix="pynomaly-rabbitmq-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log = self.directory / "rabbitmq.log"
        self.port = self._dist_port = self._epmd_port = 0
        self._settings = settings
        self._name = f"pynomaly-{uuid.uuid4().hex[:12]}@localhost"
        self._epmd: Child | None = None
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """Of the default virtual host, with the password."""
        return f"amqp://{USER}:{PASSWORD}@127.0.0.1:{self.port}/"

    @property
    def child(self) -> Child:
        """Its process; fails the test where it was never started."""
        if self._child is None:
            pytest.fail("RabbitMQ was not started")
        return self._child

    def start(self) -> RabbitServer:
        """Start it on free ports with new data, and wait until it serves."""
        for _ in range(_PORT_TRIES):
            self.port, self._dist_port, self._epmd_port = find_free_ports(3)
            self._write_settings()
            self._start_epmd()
            self._spawn()
            if self._serves():
                return self
            output = self.child.output()
            self._end()
            if not any(sign in output for sign in ("eaddrinuse", "already in use", "in use by")):
                break
        pytest.fail(f"RabbitMQ did not start; its log ends:\n{self.child.log_tail(60)}")

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self.child.kill()

    def stop(self) -> None:
        """SIGTERM, as an operator stops it."""
        self.child.stop(_STOP_TIMEOUT_S)

    def spawn(self) -> None:
        """Start it again on its ports with its data, and wait for nothing."""
        self._spawn()

    def wait(self) -> None:
        """Until it serves; fails the test when it ended instead."""
        if not self._serves():
            pytest.fail(f"RabbitMQ did not start again; its log ends:\n{self.child.log_tail(60)}")

    def restart(self, *, gently: bool = False) -> None:
        """Kill it (``gently``: stop it), start it again on its ports with its data, and wait until it serves."""
        if gently:
            self.stop()
        else:
            self.kill()
        self._spawn()
        self.wait()

    def wait_until_streams_last(self) -> None:
        """Until a node that is killed would find its streams again.

        RabbitMQ 3.10 writes down that it has any about a second after the first one was made.
        """
        names = list((self.directory / "data").glob("*/coordination/*/names.dets"))
        wait_until(
            lambda: any(b"rabbit_stream_coordinator" in path.read_bytes() for path in names),
            _START_TIMEOUT_S,
            "the node to write down that it has streams",
        )

    def control(self, *arguments: str) -> str:
        """What `rabbitmqctl` says to it; fails the test where it refuses."""
        done = subprocess.run(
            [_program("rabbitmqctl"), "--node", self._name, *arguments],
            env=self._environment(), capture_output=True, text=True, timeout=_START_TIMEOUT_S,
        )  # fmt: skip
        if done.returncode:
            pytest.fail(f"rabbitmqctl {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def pause(self) -> None:
        """SIGSTOP: alive, holding its connections, doing nothing."""
        self.child.signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.child.signal_group(signal.SIGCONT)

    def close(self) -> None:
        """Kill it and what it started, and remove its files."""
        self._end()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end(self) -> None:
        for child in (self._child, self._epmd):
            if child is not None:
                child.kill()

    def _write_settings(self) -> None:
        data = self.directory / "data"
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir()
        settings = _SETTINGS.format(port=self.port, more=self._settings)
        (self.directory / "rabbitmq.conf").write_text(settings)
        (self.directory / "advanced.config").write_text(_ADVANCED)
        (self.directory / "enabled_plugins").write_text("[].\n")
        (self.directory / "rabbitmq-env.conf").write_text("")
        cookie = self.directory / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(uuid.uuid4().hex)
            cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        at = self.directory
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin",
            "HOME": str(at),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONF_ENV_FILE": str(at / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(at / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(at / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(at / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(at / "data"),
            "RABBITMQ_LOG_BASE": str(at),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(at / "generated"),
            "RABBITMQ_PID_FILE": str(at / "rabbitmq.pid"),
            # Two threads that do not spin: the tests share the machine.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +A 4 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _start_epmd(self) -> None:
        # Started by us and not by the node, which would leave it behind as a daemon.
        self._epmd = Child(
            [_program("epmd"), "-port", str(self._epmd_port), "-address", "127.0.0.1"],
            log=self.directory / "epmd.log", env=self._environment(), cwd=self.directory,
        )  # fmt: skip
        wait_until(lambda: _is_open(self._epmd_port), 10.0, "epmd to listen")

    def _spawn(self) -> None:
        self._child = Child(
            [_program("rabbitmq-server")], log=self.log, env=self._environment(), cwd=self.directory
        )

    def _serves(self) -> bool:
        def is_ready() -> bool:
            return not self.child.is_running() or (
                "Server startup complete" in self.child.output() and _is_open(self.port)
            )

        try:
            wait_until(is_ready, _START_TIMEOUT_S, "RabbitMQ to serve")
        except AssertionError as error:
            error.add_note(f"its log ends:\n{self.child.log_tail(60)}")
            raise
        return self.child.is_running()


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True
