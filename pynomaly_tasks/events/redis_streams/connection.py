"""One way to Redis for the whole log: every await bounded, its errors ours, each Lua file run in one step."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from pynomaly_tasks.errors import EventLogUnavailable

Argument = str | bytes | int


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua file."""

    source: str
    sha: str


def load(name: str) -> Script:
    """The Lua file of that name beside this module."""
    source = (files(__package__) / "lua" / f"{name}.lua").read_text("utf-8")
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


@asynccontextmanager
async def mapped_errors(timeout_s: float) -> AsyncIterator[None]:
    """End within the time. Raises EventLogUnavailable for whatever keeps Redis from answering."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise EventLogUnavailable(
            f"the Redis that keeps the events gave no answer in {timeout_s:g} s"
        ) from None
    except (RedisError, OSError) as error:
        # Also a server that is full, that loads its data, or that may not write to its disk.
        raise EventLogUnavailable(f"the Redis that keeps the events: {error}") from error


class Connection:
    """A client of the Redis that keeps the events; safe to share within one event loop."""

    def __init__(self, url: str, timeout_s: float) -> None:
        """Connects when it is first used. ``timeout_s`` bounds each command."""
        self.timeout_s = timeout_s
        # The time is kept here alone, by asyncio.timeout: redis-py's own is built on wait_for, which
        # in Python 3.11 can swallow a cancellation. Nor may redis-py repeat a command by itself.
        self._redis: Any = Redis.from_url(
            url, socket_timeout=None, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
        )

    async def execute(self, *words: Argument, may_block_s: float = 0.0) -> Any:
        """One command. Raises EventLogUnavailable."""
        async with mapped_errors(self.timeout_s + may_block_s):
            return await self._redis.execute_command(*words)

    async def run(
        self, script: Script, keys: Sequence[str], args: Sequence[Argument], *, by: float | None = None
    ) -> Any:
        """One script; ended ``by`` that time of the monotonic clock. Raises EventLogUnavailable."""
        left_s = self.timeout_s if by is None else min(self.timeout_s, by - time.monotonic())
        if left_s <= 0:
            raise EventLogUnavailable("the Redis that keeps the events is too slow: the time is used up")
        async with mapped_errors(left_s):
            try:
                return await self._redis.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
            except NoScriptError:
                return await self._redis.execute_command("EVAL", script.source, len(keys), *keys, *args)

    async def aclose(self) -> None:
        """Disconnect."""
        await self._redis.aclose()
