"""Tells people who watch: one entry a change, best effort, never in the way of the job."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.realtime.progress import BuildUpdate, ProgressThinner
from pynomaly_tasks.realtime.streams import DASHBOARD_STREAM, DATA_FIELD
from pynomaly_tasks.telemetry import get_logger

if TYPE_CHECKING:
    from redis import Redis

log = get_logger(__name__)

_LONGEST_PAUSE_S = 5.0


class StreamPublisher:
    """Appends updates to the live streams, which keep about ``maxlen`` entries each.

    Redis that is down costs a job at most ``timeout_s``, and that only once in a pause of
    1 to 5 s: between two tries updates are dropped. Safe to share between threads and to carry
    over a fork: each process makes its own connections, when it first publishes.
    """

    def __init__(
        self, url: str, maxlen: int = 1_000, *, progress_per_s: float = 5.0, timeout_s: float = 0.25
    ) -> None:
        self._url = url
        self._maxlen = maxlen
        self._progress_per_s = progress_per_s
        self._timeout_s = timeout_s
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._redis: Redis | None = None
        self._lock = threading.Lock()
        self._silent_until = 0.0
        self._pause_s = 0.0
        self._n_dropped = 0
        self._progress = ProgressThinner(self.publish, self._progress_per_s)

    def publish_progress(self, job_id: str, build: BuildUpdate) -> None:
        """Append what ``build()`` makes to the dashboard stream, ``progress_per_s`` times a second at most.

        What comes more often is left out, except the latest, which is appended when its time has come.
        """
        if self._pid != os.getpid():
            self._forget()
        self._progress.offer(job_id, build)

    def finish_progress(self, job_id: str) -> None:
        """Append the latest progress of the job now, if it waits: before what is told of its end."""
        if self._pid == os.getpid():
            self._progress.finish(job_id)

    def publish(self, update: Mapping[str, Any], *, stream: str = DASHBOARD_STREAM) -> None:
        """Append ``update`` as JSON; dropped when Redis does not take it. Raises TypeError for no JSON."""
        if self._pid != os.getpid():
            self._forget()
        data = orjson.dumps(update, default=_plain)
        if time.monotonic() < self._silent_until:
            self._n_dropped += 1
            return
        from redis.exceptions import RedisError

        try:
            self._connection().xadd(stream, {DATA_FIELD: data}, maxlen=self._maxlen, approximate=True)
        except (RedisError, OSError) as error:
            self._fall_silent(error)
        else:
            self._speak_again()

    def check(self) -> None:
        """Raise BrokerUnavailable unless the Redis that keeps the streams answers."""
        from redis.exceptions import RedisError

        try:
            self._connection().ping()
        except (RedisError, OSError) as error:
            raise BrokerUnavailable(f"the live streams gave no answer: {error}") from error

    def close(self) -> None:
        """Give the connections back; a later `publish` makes new ones."""
        if self._pid == os.getpid():
            self._progress.forget()
            if self._redis is not None:
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
                log.warning("live_updates_dropped", reason=f"{type(error).__name__}: {error}")
            self._n_dropped += 1
            self._pause_s = min(max(1.0, self._pause_s * 2), _LONGEST_PAUSE_S)
            self._silent_until = time.monotonic() + self._pause_s

    def _speak_again(self) -> None:
        if self._pause_s == 0.0:
            return
        with self._lock:
            n_dropped, self._n_dropped, self._pause_s = self._n_dropped, 0, 0.0
        log.info("live_updates_resumed", n_dropped=n_dropped)


def _plain(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
