"""Events put into the live streams as ready-made frames, each event once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.realtime.streams import STREAMS

#: Sorted set of the events that were put into a stream. It expires with its youngest mark.
APPLIED_KEY = "dashboard:applied"
# A stream holds about a thousand entries, minutes' worth. An event that comes again after more than
# these is shown again; what comes after it in its partition does so too, and the end is the same.
_KEEP_MARKS_S = 3_600
_MOST_MARKS = 100_000

_APPEND = (files(__package__) / "lua" / "append_frames.lua").read_text("utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What people who watch are sent about one event."""

    key: str  #: of the event: the same key again adds nothing
    stream: str  #: one of `STREAMS`
    data: bytes  #: JSON


class FrameRelay:
    """Appends frames to the live streams, which keep about ``stream_length`` entries each."""

    def __init__(self, url: str, *, stream_length: int = 1_000, timeout_s: float = 5.0) -> None:
        self._url = url
        self._stream_length = stream_length
        self._timeout_s = timeout_s
        self._redis: Redis | None = None
        self._append: Any = None

    async def append(self, frames: Sequence[Frame]) -> int:
        """Append in this order, in one step; how many were not there yet. Raises BrokerUnavailable.

        After an error it may have happened; repeating the call does no harm.
        """
        if not frames:
            return 0
        arguments: list[str | bytes | int] = [_KEEP_MARKS_S, _MOST_MARKS, self._stream_length]
        for frame in frames:
            arguments += [frame.key, 2 + STREAMS.index(frame.stream), frame.data]
        try:
            n_new: int = await self._script()(keys=[APPLIED_KEY, *STREAMS], args=arguments)
        except (RedisError, OSError) as error:
            raise BrokerUnavailable(f"the live streams gave no answer: {error}") from error
        return n_new

    async def close(self) -> None:
        """Give the connections back; a later `append` makes new ones."""
        if self._redis is not None:
            await self._redis.aclose()
            self._redis = self._append = None

    def _script(self) -> Any:
        if self._redis is None:
            self._redis = Redis.from_url(
                self._url,
                socket_timeout=self._timeout_s,
                socket_connect_timeout=self._timeout_s,
                retry=Retry(NoBackoff(), 0),
            )
            self._append = self._redis.register_script(_APPEND)
        return self._append
