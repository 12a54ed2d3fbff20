"""The relay's side of the doorbell that processes ring after they wrote to the outbox.

It only saves time: the relay looks by itself, too.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pynomaly_tasks.core.outbox import VACANT_KEY, WAKE_KEY, WAKE_MEMBER
from pynomaly_tasks.telemetry import get_logger

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = get_logger(__name__)

_ANSWER_S = 2.0


class WakeListener:
    """The relay's side of the bell. No call raises: without Redis, waiting is sleeping."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._redis: Redis | None = None
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
                await self._connection().zadd(VACANT_KEY, {WAKE_MEMBER: 0})
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
