"""Clients of live updates, as programs and browsers are: WebSocket and server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from support.web_server import Web

TIMEOUT_S = 15.0


class LiveSocket:
    """An open WebSocket; messages that only say that it is alive are passed over."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def say(self, **message: Any) -> None:
        self.connection.send(json.dumps(message))

    def take(self, type_: str | None = None, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """The next message; it has this type where one is named."""
        message: dict[str, Any]
        message = json.loads(self.connection.recv(timeout_s))
        while message["type"] == "heartbeat" and type_ != "heartbeat":
            message = json.loads(self.connection.recv(timeout_s))
        assert type_ in {None, message["type"]}, message
        return message

    def take_updates(self, n: int) -> list[Any]:
        return [self.take("update")["data"] for _ in range(n)]

    def subscribe(self, name: str = "all", **options: Any) -> dict[str, Any]:
        self.say(type="subscribe", name=name, **options)
        return self.take("subscribed")


def open_socket(
    web: Web, headers: Mapping[str, str] | None = None, path: str = "/ws", **options: Any
) -> ClientConnection:
    """A connection, as the library has it. Raises InvalidStatus where it is refused."""
    address = web.address.replace("http", "ws", 1) + path
    return connect(address, additional_headers=headers, close_timeout=2.0, proxy=None, **options)


@contextmanager
def live_socket(web: Web, headers: Mapping[str, str] | None = None, **options: Any) -> Iterator[LiveSocket]:
    """Connected and welcomed."""
    with open_socket(web, headers, **options) as connection:
        socket = LiveSocket(connection)
        socket.take("welcome")
        yield socket


class LiveEvents:
    """The events of one response, parsed as a browser does."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.iter_lines()
        self.headers = response.headers
        self.last_id: str | None = None  #: as a browser would send it back
        self.retry: str | None = None
        self.comments: list[str] = []

    def take(self, type_: str | None = None) -> dict[str, str]:
        """The next event that has data; it has this type where one is named."""
        event: dict[str, str] = {}
        while "data" not in event:
            event = self.take_block()
        assert type_ in {None, event["event"]}, event
        return event

    def take_updates(self, n: int) -> list[Any]:
        return [json.loads(self.take("update")["data"]) for _ in range(n)]

    def take_block(self) -> dict[str, str]:
        """The lines up to the next empty one: an event, or a comment with an id."""
        event = {"event": "message"}
        for line in self._lines:
            if not line:
                return event
            name, _, value = line.partition(": ")
            if name == "id":
                self.last_id = value
            elif name == "retry":
                self.retry = value
            elif name in {"event", "data"}:
                event[name] = value
            else:
                self.comments.append(value)
        raise AssertionError("the events ended")


@contextmanager
def live_events(
    web: Web, headers: Mapping[str, str] | None = None, path: str = "/live", **params: Any
) -> Iterator[LiveEvents]:
    """The response has begun."""
    with web.client.stream("GET", path, params=params, headers=headers) as response:
        assert response.status_code == 200, response.read()
        events = LiveEvents(response)
        events.take_block()  # from now on it is watching
        yield events
