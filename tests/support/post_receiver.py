"""A web server that others post to."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Post(NamedTuple):
    """What was posted, and how it was answered."""

    path: str
    headers: dict[str, str]
    body: bytes
    status: int


class PostReceiver:
    """Keeps what is posted, and answers as told; to whoever follows it elsewhere, with an empty page."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.headers: dict[str, str] = {}
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.posts: list[Post] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.may_answer.wait(30)
                receiver.posts.append(Post(self.path, dict(self.headers), body, receiver.status))
                self.send_response(receiver.status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - the base class's name

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def port(self) -> int:
        """On loopback."""
        return self._server.server_port

    def close(self) -> None:
        """Let go whom it let wait, and end."""
        self.may_answer.set()
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()
