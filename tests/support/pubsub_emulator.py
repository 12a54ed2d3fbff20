"""Google's own emulator of Pub/Sub for tests: a free loopback port, all in memory, ended by its pid."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import grpc
import pytest

from pynomaly_tasks.embedded.child import Child
from pynomaly_tasks.embedded.ports import find_free_port
from support.waiting import wait_until

_PORT_TRIES = 5
_PROJECT = "test-project"


def _jar() -> Path:
    """Beside ``gcloud``, or under PUBSUB_EMULATOR_HOME."""
    homes = [
        Path(os.environ.get("PUBSUB_EMULATOR_HOME", "/usr/lib/google-cloud-sdk/platform/pubsub-emulator"))
    ]
    if path := shutil.which("gcloud"):
        homes.append(Path(path).resolve().parents[1] / "platform" / "pubsub-emulator")
    found = sorted(jar for home in homes for jar in home.glob("lib/cloud-pubsub-emulator-*-all.jar"))
    if not found:
        pytest.fail(
            "Google's Pub/Sub emulator is not installed: package google-cloud-cli-pubsub-emulator of Google's apt "
            "repository, or `gcloud components install pubsub-emulator`; PUBSUB_EMULATOR_HOME says where it lies"
        )
    return found[-1]


class PubSubEmulator:
    """One emulator. It forgets everything when it ends."""

    def __init__(self, directory: Path) -> None:
        """Nothing runs yet."""
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / "pubsub.log"
        self.port = 0
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """For `PubSubBroker`."""
        return f"pubsub://{_PROJECT}?endpoint=127.0.0.1:{self.port}"

    def start(self) -> PubSubEmulator:
        """Wait until it takes connections."""
        java = shutil.which("java")
        if java is None:
            pytest.fail("the Pub/Sub emulator needs Java: run scripts/install_test_servers")
        for _ in range(_PORT_TRIES):
            self.port = find_free_port()
            self._child = child = Child(
                [java, "-Xmx256m", "-XX:TieredStopAtLevel=1", "-jar", _jar(), "--host=127.0.0.1",
                 f"--port={self.port}"],
                log=self.log,
            )  # fmt: skip
            wait_until(lambda c=child: not c.is_running() or self._answers(), 60.0, "the Pub/Sub emulator")
            if child.is_running():
                return self
            if "Address already in use" not in child.log_tail():
                break
        pytest.fail(
            f"the Pub/Sub emulator did not start; its log ends:\n{self._child and self._child.log_tail()}"
        )

    def close(self) -> None:
        """End it."""
        if self._child is not None:
            self._child.kill()

    def _answers(self) -> bool:
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=0.5)
            except grpc.FutureTimeoutError:
                return False
            return True
