"""aiokafka's clients, which leave no connection open.

aiokafka 0.14 forgets connections that are still open: the one that it starts with, where the start is
cancelled; one that is made while its client is closed; one whose making is cancelled at the end of TLS's
greeting; one that Kafka has ended, where it is dropped before the task that reads from it noticed; and one
that is closed while the other side reads no more. Here a client knows each of its connections from its
transport's first moment to its last, and ends them all when it is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import aiokafka.client
import aiokafka.conn
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, AIOKafkaProtocol, create_conn
from aiokafka.errors import KafkaError

_CLOSE_TIMEOUT_S = 1.0


def build_admin(**options: Any) -> AIOKafkaAdminClient:
    """An admin client, not started; it takes the options of aiokafka's."""
    admin = AIOKafkaAdminClient(**options)
    _Client.adopt(admin._client)
    return admin


def build_consumer(*topics: str, **options: Any) -> AIOKafkaConsumer:
    """A consumer, not started; it takes the options of aiokafka's."""
    consumer = AIOKafkaConsumer(*topics, **options)
    _Client.adopt(consumer._client)
    return consumer


def build_producer(**options: Any) -> AIOKafkaProducer:
    """A producer, not started; it takes the options of aiokafka's."""
    producer = AIOKafkaProducer(**options)
    _Client.adopt(producer.client)
    return producer


class Connection(AIOKafkaConnection):  # type: ignore[misc]  # aiokafka has no types
    """A connection to one broker, which can be ended at any moment. ``hold`` is told of it once it is open."""

    def __init__(
        self, host: str, port: int, *, hold: Callable[[Connection], None] | None = None, **options: Any
    ) -> None:
        super().__init__(host, port, **options)
        self._hold = hold
        self._transport: asyncio.Transport | None = None
        self._is_ended = False

    async def connect(self) -> Any:
        """Connect and log in."""
        token = _opening.set(self)
        try:
            return await super().connect()
        except BaseException:
            self.end()
            raise
        finally:
            _opening.reset(token)

    def opened(self, transport: asyncio.Transport) -> None:
        """Called by its protocol, also where a cancelled `connect` is no more there to learn of it."""
        # In Python 3.11.2 a TLS transport that was closed twice cannot be aborted; what is below it always can.
        tls = getattr(transport, "_ssl_protocol", None)
        self._transport = getattr(tls, "_transport", transport)
        if self._is_ended:
            self._transport.abort()
        elif self._hold is not None:
            self._hold(self)

    def end(self) -> None:
        """Close it, and wait neither for what is still to be sent nor for TLS to take its leave."""
        self._is_ended = True
        self.close()
        if self._transport is not None:
            self._transport.abort()


_opening: ContextVar[Connection | None] = ContextVar("_opening", default=None)


class _Protocol(AIOKafkaProtocol):  # type: ignore[misc]  # aiokafka has no types
    """Tells the connection that is being opened of its transport, whatever becomes of who opens it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._connection = _opening.get()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self._connection is not None:
            self._connection.opened(transport)


# The class that aiokafka's connections find by this name.
aiokafka.conn.AIOKafkaProtocol = _Protocol


class _Client(AIOKafkaClient):  # type: ignore[misc]  # aiokafka has no types
    """What is below an admin client, a consumer and a producer."""

    _held: set[Connection]
    _is_closed: bool

    @classmethod
    def adopt(cls, client: Any) -> None:
        """Make one of these of a client that has not connected yet: aiokafka lets nobody choose its class."""
        client.__class__ = cls
        client._held = set()
        client._is_closed = False

    async def bootstrap(self) -> None:
        """Find the brokers."""
        with self._connecting():
            await super().bootstrap()

    async def _get_conn(self, *args: Any, **options: Any) -> Any:
        with self._connecting():
            return await super()._get_conn(*args, **options)

    @contextmanager
    def _connecting(self) -> Iterator[None]:
        """Have `_create_conn` make its connections for this client."""
        token = _connecting.set(self)
        try:
            yield
        finally:
            _connecting.reset(token)

    def hold(self, connection: Connection) -> None:
        """Know it until its transport is gone; end it where the client was closed meanwhile."""
        if self._is_closed:
            connection.end()
        self._held.add(connection)
        connection._closed_fut.add_done_callback(lambda _: self._held.discard(connection))

    async def close(self) -> None:
        """End every connection, also one whose other side reads no more. Within about a second."""
        if self._is_closed:
            return
        self._is_closed = True
        held = list(self._held)
        try:
            with suppress(TimeoutError, KafkaError, OSError):
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await super().close()
        finally:
            for connection in held:
                connection.end()


_connecting: ContextVar[_Client | None] = ContextVar("_connecting", default=None)


async def _create_conn(host: str, port: int, **options: Any) -> AIOKafkaConnection:
    client = _connecting.get()
    if client is None:  # somebody else's, in the same process
        return await create_conn(host, port, **options)
    connection = Connection(host, port, hold=client.hold, **options)
    await connection.connect()
    return connection


# The function that aiokafka's client calls by this name wherever it connects.
aiokafka.client.create_conn = _create_conn
