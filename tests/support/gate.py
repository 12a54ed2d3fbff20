"""An HTTP server that lets a notification job run for exactly as long as a test wants."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.waiting import wait_until


class Gate:
    """Takes the POSTs of an Apprise channel; while it is shut, holds each of them.

    A job that notifies this channel is running once it `arrived`, and ends when it is let through.
    """

    def __init__(self) -> None:
        """Open, listening."""
        self.subjects: list[str] = []  #: of what was delivered and answered, in order of arrival
        self._open = threading.Event()
        self._open.set()
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                gate.subjects.append(body["title"])
                gate._open.wait(60.0)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]  # a killed client
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()

    @property
    def channel(self) -> str:
        """Apprise's URL for it."""
        return f"json://127.0.0.1:{self._server.server_port}/"

    def shut(self) -> None:
        """Hold what comes from now on."""
        self._open.clear()

    def open(self) -> None:
        """Let everything through."""
        self._open.set()

    def wait_for(self, subject: str, n_times: int = 1) -> None:
        """Wait until the notification with this subject has arrived so often."""
        wait_until(
            lambda: self.subjects.count(subject) >= n_times, 30.0, f"{subject!r} at the gate, {n_times} times"
        )

    def close(self) -> None:
        """Stop listening."""
        self.open()
        self._server.shutdown()
        self._server.server_close()
