"""An SQS server: moto's, in a process of its own, which ends when its input is closed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Two of moto's threads may otherwise hand the same message to two consumers: AWS does not.
_SERVER = """
import sys, threading
from moto.server import ThreadedMotoServer
from moto.sqs.models import SQSBackend

lock = threading.RLock()
receive = SQSBackend.receive_message

def receive_alone(self, queue_name, count, wait_seconds_timeout, visibility_timeout, *more):
    import time
    end = time.monotonic() + wait_seconds_timeout
    while True:
        with lock:
            found = receive(self, queue_name, count, 0, visibility_timeout, *more)
        if found or time.monotonic() > end:
            return found
        time.sleep(0.02)

SQSBackend.receive_message = receive_alone
server = ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]), verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


class SqsServer:
    """One server. It keeps everything in its memory: a restart is a loss of all."""

    def __init__(self, log: Path) -> None:
        self._log = log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, "0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.strip().isdecimal():
            self.stop()
            raise AssertionError(f"moto's server did not start:\n{log.read_text('utf-8', 'replace')}")
        self.port = int(line)

    @property
    def url(self) -> str:
        """For `SqsBroker`."""
        return f"sqs://key:secret@us-east-1?endpoint=http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()
