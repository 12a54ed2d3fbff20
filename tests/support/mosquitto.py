"""A Mosquitto of its own for tests: a free loopback port, its own files, ended by its pid, started again at will."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from pathlib import Path

import pytest

from pynomaly_tasks.embedded.child import Child
from pynomaly_tasks.embedded.ports import find_free_port
from support.transport_servers import Certificates
from support.waiting import wait_until

_PORT_TRIES = 5


def _program(name: str) -> Path:
    # Debian keeps servers in /usr/sbin, which is not on everybody's PATH.
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        pytest.fail(f"{name} is not installed: run scripts/install_test_servers (package mosquitto)")
    return Path(path)


class Mosquitto:
    """One broker. It keeps what it has when it is restarted, and not when it is killed."""

    def __init__(
        self, *, keeps_all: bool = True, password: str | None = None, certificates: Certificates | None = None
    ) -> None:
        """Nothing runs yet. ``keeps_all`` False: as it comes, it drops what a sleeping session gets past 1,000.

        ``password``: of the user ``app``, whom it then asks for. ``certificates``: it takes TLS alone.
        """
        # Not under pytest's directory, which only its own user may enter.
        self.directory = Path(tempfile.mkdtemp(prefix="pynomaly-mosquitto-"))
        self.log = self.directory / "mosquitto.log"
        self.port = 0
        self._keeps_all = keeps_all
        self._password = password
        self._certificates = certificates
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """For clients."""
        user = "" if self._password is None else f"app:{self._password}@"
        scheme = "mqtt" if self._certificates is None else "mqtts"
        return f"{scheme}://{user}127.0.0.1:{self.port}"

    def start(self) -> Mosquitto:
        """Wait until it takes connections."""
        for _ in range(_PORT_TRIES):
            self.port = find_free_port()
            if self._run():
                return self
            if "Address already in use" not in self._output():
                break
        pytest.fail(f"mosquitto did not start; its log ends:\n{self._output()}")

    def restart(self) -> None:
        """End it as an operator would, and start it again on the same port."""
        self.stop()
        if not self._run():
            pytest.fail(f"mosquitto did not start again; its log ends:\n{self._output()}")

    def stop(self) -> None:
        """SIGTERM: it writes its file."""
        assert self._child is not None
        self._child.stop(10.0, signal.SIGTERM)

    def close(self) -> None:
        """End it and remove its files."""
        if self._child is not None:
            self._child.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _run(self) -> bool:
        settings = self.directory / "mosquitto.conf"
        lines = [
            f"listener {self.port} 127.0.0.1",
            "persistence true",
            "set_tcp_nodelay true",
            f"persistence_location {self.directory}/",
            "user root" if os.geteuid() == 0 else "",
            "max_queued_messages 0" if self._keeps_all else "",
        ]
        if self._certificates is not None:
            lines += [f"certfile {self._certificates.certificate}", f"keyfile {self._certificates.key}"]
        if self._password is None:
            lines.append("allow_anonymous true")
        else:
            passwords = self.directory / "passwords"
            passwords.write_text(f"app:{self._password}\n")
            passwords.chmod(0o600)
            done = Child([_program("mosquitto_passwd"), "-U", passwords], log=self.directory / "passwd.log")
            wait_until(lambda: not done.is_running(), 10.0, "mosquitto_passwd to end")
            lines.append(f"password_file {passwords}")
        settings.write_text("\n".join(line for line in lines if line) + "\n")
        self._child = child = Child([_program("mosquitto"), "-c", settings], log=self.log)

        def answers() -> bool:
            if not child.is_running():
                return True
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
            except OSError:
                return False
            return True

        wait_until(answers, 10.0, "mosquitto to take connections")
        return child.is_running()

    def _output(self) -> str:
        return "" if self._child is None else self._child.log_tail()
