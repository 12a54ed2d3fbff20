"""Uvicorn's WebSocket connection, with what a server that pushes to many clients needs beside it."""

from __future__ import annotations

from typing import Any, cast

from starlette.types import Scope
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request

_EXTENSION = "pynomaly.socket"
_LINGER_S = 2.0


def text_frame(text: bytes) -> bytes:
    """The bytes of a message on the wire. A server masks nothing: they are the same for every client."""
    return Frame(Opcode.TEXT, text).serialize(mask=False)


class SocketProtocol(WebSocketsSansIOProtocol):
    """Takes ready-made frames, and can let go of a client that reads nothing.

    ASGI knows neither: each message would be encoded for each client and written by a task of its
    own, and a connection is closed only once all that was written is taken.
    """

    def write_now(self, frames: bytes) -> bool:
        """Write, if the client keeps up and is not about to leave; whether it was written."""
        if self.close_sent or self.disconnected or not self.writable.is_set() or self.transport.is_closing():
            return False
        self.transport.write(frames)
        return True

    def farewell(self, frames: bytes, code: int) -> None:
        """Write this, and that it is over, however much waits; let go in a moment, however much is left of it."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        self.conn.send_close(code)
        self.transport.write(frames + b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(_LINGER_S, self.transport.abort)

    def handle_connect(self, event: Request) -> None:
        """Let the application find this object."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions = cast("dict[str, Any]", self.scope["extensions"])
            extensions[_EXTENSION] = {"socket": self}

    def handle_parser_exception(self) -> None:
        """Say why, then read on for a moment without looking: a reset would lose the reason."""
        if self.close_sent:
            return
        close = self.conn.close_sent
        self.queue.put_nowait(
            {"type": "websocket.disconnect", "code": close.code if close else 1002, "reason": ""}
        )
        self.close_sent = True
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.read_paused = False
        self.transport.resume_reading()
        # While there is a timer, Uvicorn leaves the connection open when the application has returned.
        self.close_timer = self.loop.call_later(_LINGER_S, self.transport.abort)

    def keepalive_timeout(self) -> None:
        """A client that answers no ping takes no farewell either."""
        super().keepalive_timeout()
        self.loop.call_later(_LINGER_S, self.transport.abort)

    async def send(self, message: Any) -> None:
        """As Uvicorn's, which takes a refusal for an application that forgot to answer."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True


def socket_of(scope: Scope) -> SocketProtocol:
    """The connection that a WebSocket's scope belongs to. Raises RuntimeError under another server."""
    extension = scope.get("extensions", {}).get(_EXTENSION)
    if extension is None:
        raise RuntimeError("WebSockets are served by pynomaly_tasks.web.server only")
    socket: SocketProtocol = extension["socket"]
    return socket
