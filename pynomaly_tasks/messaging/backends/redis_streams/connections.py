"""Connections to one Redis, each lent to one command at a time; every command ends within its timeout.

redis-py's connections without its client: pool, retries, counters and a timeout for each write and each
read are a third of what a short command costs, and none of them is needed here. A command is sent once
and never repeated: a repeat after a lost answer would do it twice.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import NoScriptError, RedisError, ResponseError

from pynomaly_tasks.errors import BrokerUnavailable, MessagingClosed
from pynomaly_tasks.messaging.backend import CatalogStale


class _PackedInC:
    """A connection that packs commands as redis-py's synchronous client does; in Python it takes ten times as long."""

    _serializer = HiredisRespSerializer()

    def pack_command(self, *arguments: Any) -> list[bytes]:
        """The command's bytes."""
        packed: list[bytes] = self._serializer.pack(*arguments)
        return packed


class RedisConnections:
    """As many connections as there are commands on their way; kept, and used again."""

    def __init__(self, url: str, *, connect_timeout_s: float, timeout_s: float) -> None:
        """Nothing is connected yet. ``url``: redis://, rediss:// or unix://."""
        self._timeout_s = timeout_s
        self._factory: Any = ConnectionPool.from_url(
            url,
            protocol=2,
            socket_connect_timeout=connect_timeout_s,
            socket_timeout=None,  # `ask` has one
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
        )
        kind = self._factory.connection_class
        self._factory.connection_class = type(kind.__name__, (_PackedInC, kind), {})
        self._idle: list[Any] = []
        self._lent: set[Any] = set()
        self._is_open = True

    async def ask(self, *command: str | bytes | int, waits_s: float = 0.0) -> Any:
        """The answer as Redis gives it, ``waits_s`` later than others at most; errors as ours, but for NoScriptError."""
        if not self._is_open:
            raise closed()
        connection = self._idle.pop() if self._idle else self._factory.make_connection()
        self._lent.add(connection)
        timeout_s = self._timeout_s + waits_s
        try:
            async with asyncio.timeout(timeout_s):
                if not connection.is_connected:
                    await connection.connect()
                await connection.send_command(*command)
                return await connection.read_response()
        except NoScriptError:
            raise
        except ResponseError as error:
            if str(error).startswith("STALE"):
                raise CatalogStale from None
            raise BrokerUnavailable(f"Redis refused: {error}") from error
        except TimeoutError:
            raise BrokerUnavailable(f"Redis gave no answer within {timeout_s:g} s") from None
        except (RedisError, OSError) as error:
            if not self._is_open:
                raise closed() from None
            # The others' server went as well: each would fail once more.
            await self._disconnect(self._idle)
            raise BrokerUnavailable(f"Redis gave no answer: {error}") from error
        finally:
            # One that was left in the middle of a command has closed itself.
            self._lent.discard(connection)
            if self._is_open:
                self._idle.append(connection)
            else:
                await connection.disconnect(nowait=True)  # it may have been connected after the closing

    async def close(self) -> None:
        """End them all, with what is on its way."""
        self._is_open = False
        await self._disconnect([*self._idle, *self._lent])

    async def _disconnect(self, connections: list[Any]) -> None:
        for connection in list(connections):
            await connection.disconnect(nowait=True)


def closed() -> MessagingClosed:
    """The error of a backend that is not open."""
    return MessagingClosed("the Redis backend is not open; use it in `async with`, or call open()")
