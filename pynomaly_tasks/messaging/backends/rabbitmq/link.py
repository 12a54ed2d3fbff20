"""One connection to RabbitMQ, made again when it broke; the client's errors as ours, each wait with an end.

A connection that gave no answer in time is dropped: whatever is in doubt on it comes again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError, ChannelNotFoundEntity
from yarl import URL

from pynomaly_tasks.errors import BrokerUnavailable, MessagingClosed
from pynomaly_tasks.messaging.plain_broker import LaneGone

#: The server drops a connection that it heard nothing from for two to three times as long, and hands
#: out again what was held on it; so does the client with a server that is silent.
HEARTBEAT_S = 5

# What becomes of a connection is told by the errors that callers get; the client's own words come on top.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)


class Link:
    """Gives channels, over a connection that it makes when there is none."""

    def __init__(self, url: str, *, purpose: str, connect_timeout_s: float, timeout_s: float) -> None:
        """Nothing is connected yet. ``purpose``: what the server's list of connections says."""
        self._url = URL(url)
        if "heartbeat" not in self._url.query:
            self._url = self._url.update_query(heartbeat=str(HEARTBEAT_S))
        self._purpose = f"pynomaly {purpose} of {socket.gethostname()}"
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._connection: AbstractConnection | None = None
        self._connecting = asyncio.Lock()
        self._is_open = True

    async def connect(self) -> AbstractConnection:
        """The connection that stands, or a new one. Raises BrokerUnavailable within the connect timeout."""
        async with self._connecting:
            if not self._is_open:
                raise closed()
            if self._connection is None or self._connection.is_closed or not self._is_alive():
                await self._drop()
                self._connection = await self._make()
            return self._connection

    def _is_alive(self) -> bool:
        transport = self._connection.transport if self._connection is not None else None
        return transport is not None and not transport.connection.is_closed

    async def _make(self) -> AbstractConnection:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return await aio_pika.connect(
                    str(self._url), client_properties={"connection_name": self._purpose}
                )
        except TimeoutError:
            raise BrokerUnavailable(
                f"RabbitMQ gave no answer: not connected after {self._connect_timeout_s:g} s"
            ) from None
        except (AMQPError, OSError, RuntimeError, ValueError) as error:
            raise BrokerUnavailable(f"RabbitMQ gave no answer: {type(error).__name__}: {error}") from error

    async def channel(self) -> AbstractChannel:
        """A new channel, on which the server confirms what is published and returns what has no queue."""
        connection = await self.connect()
        async with self.answered():
            channel = connection.channel(publisher_confirms=True, on_return_raises=True)
            await channel.initialize()
            return channel

    @asynccontextmanager
    async def answered(self) -> AsyncIterator[None]:
        """Raises BrokerUnavailable for the client's errors and after the timeout, LaneGone for a queue that is not there."""
        task = asyncio.current_task()
        n_cancelled = task.cancelling() if task is not None else 0
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError:
            await self._drop()
            raise BrokerUnavailable(f"RabbitMQ gave no answer within {self._timeout_s:g} s") from None
        except ChannelNotFoundEntity as error:
            # A queue whose server is only just starting is not found either, in other words.
            if "no queue" in str(error):
                raise LaneGone(str(error)) from error
            raise BrokerUnavailable(f"RabbitMQ gave no answer: {error}") from error
        except (AMQPError, ChannelInvalidStateError, OSError, RuntimeError) as error:
            self._check_open()
            if _QUEUE_ENDED in str(error):
                raise LaneGone(str(error)) from error
            raise BrokerUnavailable(f"RabbitMQ gave no answer: {type(error).__name__}: {error}") from error
        except asyncio.CancelledError:
            # The client cancels what waits on a connection that broke, as if the caller had wished it.
            if task is not None and task.cancelling() > n_cancelled:
                raise
            self._check_open()
            raise BrokerUnavailable("RabbitMQ gave no answer: the connection broke") from None

    async def close(self) -> None:
        """Close it for good."""
        self._is_open = False
        await self._drop()

    def _check_open(self) -> None:
        if not self._is_open:
            raise closed()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None or connection.is_closed:
            return
        with suppress(TimeoutError, AMQPError, OSError, RuntimeError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await connection.close()


_CLOSE_TIMEOUT_S = 1.0
#: A quorum queue that is deleted just when it is asked: the server calls that an internal error, and closes the
#: whole connection.
_QUEUE_ENDED = "noproc"


def closed() -> MessagingClosed:
    """What every call raises that needs a connection after `close`."""
    return MessagingClosed("the RabbitMQ backend is not open; use it in `async with`, or call open()")
