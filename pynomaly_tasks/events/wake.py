"""The doorbell between processes that write to the outbox and the relay that publishes it.

A sorted set with one member in the Redis of the live streams: ringing twice is ringing once, and a ring
that nobody heard waits. It only saves time: the relay looks by itself, too.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from pynomaly_tasks.telemetry import get_logger

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

log = get_logger(__name__)

#: Sorted sets without expiry, of one member each.
WAKE_KEY = "outbox:wake"
VACANT_KEY = "outbox:vacant"  #: the relay's lease was given up: a relay that stands by may take it
_MEMBER = "go"

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 5.0
_ANSWER_S = 2.0


class OutboxBell:
    """Rung after each commit that wrote events; best effort, never in the way of a job.

    Redis that is down costs at most ``timeout_s``, and that only once in a pause of 1 to 5 s. Safe to
    share between threads and to carry over a fork: each process makes its own connections.
    """

    def __init__(self, url: str, *, timeout_s: float = 0.25) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._redis: Redis | None = None
        self._lock = threading.Lock()
        self._silent_until_s = 0.0
        self._pause_s = 0.0

    def ring(self) -> None:
        """Have the relay look at once. Never raises."""
        if self._pid != os.getpid():
            self._forget()
        if time.monotonic() < self._silent_until_s:
            return
        from redis.exceptions import RedisError

        try:
            self._connection().zadd(WAKE_KEY, {_MEMBER: 0})
        except (RedisError, OSError) as error:
            self._fall_silent(error)
        else:
            self._pause_s = 0.0

    def close(self) -> None:
        """Give the connections back; a later `ring` makes new ones."""
        if self._redis is not None and self._pid == os.getpid():
            self._redis.close()
        self._redis = None

    def _connection(self) -> Redis:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        with self._lock:
            if self._redis is None:
                # redis-py repeats a command 10 times by default: that would be the job's time.
                self._redis = Redis.from_url(
                    self._url,
                    socket_timeout=self._timeout_s,
                    socket_connect_timeout=self._timeout_s,
                    retry=Retry(NoBackoff(), 0),
                )
            return self._redis

    def _fall_silent(self, error: Exception) -> None:
        with self._lock:
            if self._pause_s == 0.0:
                log.warning("relay_not_woken", reason=f"{type(error).__name__}: {error}")
            self._pause_s = min(max(_FIRST_PAUSE_S, self._pause_s * 2), _LONGEST_PAUSE_S)
            self._silent_until_s = time.monotonic() + self._pause_s


class WakeListener:
    """The relay's side of the bell. No call raises: without Redis, waiting is sleeping."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._redis: AsyncRedis | None = None
        self._is_away = False

    async def wait(self, timeout_s: float) -> None:
        """Until something was written, for ``timeout_s`` at most."""
        await self._wait(WAKE_KEY, timeout_s)

    async def wait_for_vacancy(self, timeout_s: float) -> None:
        """Until the relay that publishes has given up, for ``timeout_s`` at most."""
        await self._wait(VACANT_KEY, timeout_s)

    async def tell_vacancy(self) -> None:
        """Have a relay that stands by take over at once."""
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._connection().zadd(VACANT_KEY, {_MEMBER: 0})
        except (RedisError, OSError, TimeoutError) as error:
            log.info("standby_not_woken", reason=f"{type(error).__name__}: {error}")

    async def close(self) -> None:
        """Disconnect."""
        if self._redis is not None:
            redis, self._redis = self._redis, None
            await redis.aclose()

    async def _wait(self, key: str, timeout_s: float) -> None:
        from redis.exceptions import RedisError

        end_s = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout(timeout_s + _ANSWER_S):
                await self._connection().bzpopmin(key, timeout=max(timeout_s, 0.01))
        except (RedisError, OSError, TimeoutError) as error:
            if not self._is_away:
                self._is_away = True
                log.warning("wake_not_heard", reason=f"{type(error).__name__}: {error}", polling_s=timeout_s)
            await asyncio.sleep(end_s - asyncio.get_running_loop().time())
        else:
            self._is_away = False

    def _connection(self) -> Any:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        if self._redis is None:
            self._redis = Redis.from_url(
                self._url,
                socket_connect_timeout=_ANSWER_S,
                # Waiting is bounded above; a timeout of the socket would end it early.
                socket_timeout=None,
                retry=Retry(NoBackoff(), 0),
            )
        return self._redis
