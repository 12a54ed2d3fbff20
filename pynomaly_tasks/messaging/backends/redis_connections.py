"""Connections to one Redis, for calls that end in time.

A command is sent once and never repeated by the client: a repeat after a lost answer would do it twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import NoScriptError, RedisError, ResponseError

from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.messaging.backend import CatalogStale


class _PackedInC:
    """A connection that packs commands as redis-py's synchronous client does.

    The asyncio client does it in Python, which is a third of what sending a hundred messages costs.
    """

    _serializer = HiredisRespSerializer()

    def pack_command(self, *arguments: Any) -> list[bytes]:
        """The command's bytes."""
        packed: list[bytes] = self._serializer.pack(*arguments)
        return packed


def connect(url: str, *, connect_timeout_s: float, max_connections: int) -> Redis:
    """A client; it connects when it is first asked. ``url``: redis://, rediss:// or unix://."""
    pool: Any = ConnectionPool.from_url(
        url,
        max_connections=max_connections,
        socket_connect_timeout=connect_timeout_s,
        socket_timeout=None,  # `answer` has one
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
    )
    pool.connection_class = type("PackedInC", (_PackedInC, pool.connection_class), {})
    return Redis(connection_pool=pool)


async def answer(question: Awaitable[Any], timeout_s: float) -> Any:
    """What Redis says within the timeout; its errors as ours, but for NoScriptError.

    One timeout around the whole call: the client's own, one for each write and each read, make every
    call a fifth dearer.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await question
    except NoScriptError:
        raise
    except ResponseError as error:
        if str(error).startswith("STALE"):
            raise CatalogStale from None
        raise BrokerUnavailable(f"Redis refused: {error}") from error
    except TimeoutError:
        raise BrokerUnavailable(f"Redis gave no answer within {timeout_s:g} s") from None
    except (RedisError, OSError) as error:
        raise BrokerUnavailable(f"Redis gave no answer: {error}") from error
