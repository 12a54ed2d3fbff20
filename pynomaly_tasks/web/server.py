"""Serves the application; the address it prints is the one it really has."""

from __future__ import annotations

import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from pynomaly_tasks.errors import InvalidSettings
from pynomaly_tasks.web.socket_protocol import SocketProtocol

_GRACE_S = 5


class _Server(uvicorn.Server):
    """Says where it serves once it does, and ends the live updates before it waits for open responses."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            print(f"web page: {address_of(listener)}", flush=True)  # noqa: T201 (for whoever started it)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app = self.config.app
        assert isinstance(app, FastAPI)
        await app.state.hub.stop()
        await super().shutdown(sockets)


def serve(app: FastAPI, host: str, port: int) -> None:
    """Listen and serve until SIGINT or SIGTERM; port 0 takes a free one. Raises InvalidSettings."""
    # Uvicorn shuts down in order and then raises the signal again: that must end the process, not kill it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    listener = _listen(host, port)
    live = app.state.platform.settings.live
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
        timeout_keep_alive=30,
        ws=SocketProtocol,
        ws_max_size=live.max_message_kb * 1024,
        ws_ping_interval=live.heartbeat_s,
        ws_ping_timeout=live.heartbeat_s,
        # It would be done again for each client, and keep 20 KiB and more for each.
        ws_per_message_deflate=False,
        proxy_headers=False,
    )
    with listener:
        _Server(config).run(sockets=[listener])


def _exit(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise InvalidSettings.of(
            "web.port",
            f"{host}:{port}: {error.strerror}; choose another port, or 0 for a free one",
        ) from error
    listener.set_inheritable(False)
    return listener


def address_of(listener: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
