"""Commands to a Redis that may be away: sent if that is quick, else dropped."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.telemetry import get_logger

if TYPE_CHECKING:
    from redis import Redis

log = get_logger(__name__)

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 5.0


class BestEffortRedis:
    """What a job tells others in passing must not cost it its time.

    Redis that is down costs at most ``timeout_s``, and that only once in a pause of 1 to 5 s: between
    two tries commands are dropped. Safe to share between threads and to carry over a fork: each process
    makes its own connections, when it first sends.
    """

    def __init__(self, url: str, what: str, *, timeout_s: float = 0.25) -> None:
        """``what`` names the log lines: ``<what>_dropped`` and ``<what>_resumed``."""
        self._url = url
        self._what = what
        self._timeout_s = timeout_s
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._redis: Redis | None = None
        self._lock = threading.Lock()
        self._silent_until_s = 0.0
        self._pause_s = 0.0
        self._n_dropped = 0

    def send(self, command: Callable[[Redis], Any]) -> None:
        """Call it with a client; dropped when Redis does not answer in time. Never raises for that."""
        if self._pid != os.getpid():
            self._forget()
        if time.monotonic() < self._silent_until_s:
            self._n_dropped += 1
            return
        from redis.exceptions import RedisError

        try:
            command(self._connection())
        except (RedisError, OSError) as error:
            self._fall_silent(error)
        else:
            self._speak_again()

    def check(self) -> None:
        """Raise BrokerUnavailable unless Redis answers."""
        if self._pid != os.getpid():
            self._forget()
        from redis.exceptions import RedisError

        try:
            self._connection().ping()
        except (RedisError, OSError) as error:
            raise BrokerUnavailable(f"the live streams gave no answer: {error}") from error

    def close(self) -> None:
        """Give the connections back; a later `send` makes new ones."""
        if self._redis is not None and self._pid == os.getpid():
            self._redis.close()
        self._redis = None

    def _connection(self) -> Redis:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        with self._lock:
            if self._redis is None:
                # redis-py repeats a command 10 times by default: the job's time, and doubled entries.
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
                log.warning(f"{self._what}_dropped", reason=f"{type(error).__name__}: {error}")
            self._n_dropped += 1
            self._pause_s = min(max(_FIRST_PAUSE_S, self._pause_s * 2), _LONGEST_PAUSE_S)
            self._silent_until_s = time.monotonic() + self._pause_s

    def _speak_again(self) -> None:
        if self._pause_s == 0.0:
            return
        with self._lock:
            n_dropped, self._n_dropped, self._pause_s = self._n_dropped, 0, 0.0
        log.info(f"{self._what}_resumed", n_dropped=n_dropped)
