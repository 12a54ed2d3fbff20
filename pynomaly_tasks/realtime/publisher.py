"""Tells people who watch: one entry a change, best effort, never in the way of the job."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import orjson

from pynomaly_tasks.realtime.best_effort import BestEffortRedis
from pynomaly_tasks.realtime.progress import BuildUpdate, ProgressThinner
from pynomaly_tasks.realtime.streams import DASHBOARD_STREAM, DATA_FIELD


class StreamPublisher:
    """Appends updates to the live streams, which keep about ``maxlen`` entries each.

    What Redis being away costs, see `BestEffortRedis`. Safe to share between threads and to carry
    over a fork.
    """

    def __init__(
        self, url: str, maxlen: int = 1_000, *, progress_per_s: float = 5.0, timeout_s: float = 0.25
    ) -> None:
        self._redis = BestEffortRedis(url, "live_updates", timeout_s=timeout_s)
        self._maxlen = maxlen
        self._progress_per_s = progress_per_s
        self._forget_progress()

    def _forget_progress(self) -> None:
        self._pid = os.getpid()
        self._progress = ProgressThinner(self.publish, self._progress_per_s)

    def publish_progress(self, job_id: str, build: BuildUpdate) -> None:
        """Append what ``build()`` makes to the dashboard stream, ``progress_per_s`` times a second at most.

        What comes more often is left out, except the latest, which is appended when its time has come.
        """
        if self._pid != os.getpid():
            self._forget_progress()
        self._progress.offer(job_id, build)

    def finish_progress(self, job_id: str) -> None:
        """Append the latest progress of the job now, if it waits: before what is told of its end."""
        if self._pid == os.getpid():
            self._progress.finish(job_id)

    def publish(self, update: Mapping[str, Any], *, stream: str = DASHBOARD_STREAM) -> None:
        """Append ``update`` as JSON; dropped when Redis does not take it. Raises TypeError for no JSON."""
        data = orjson.dumps(update, default=_plain)
        self._redis.send(
            lambda redis: redis.xadd(stream, {DATA_FIELD: data}, maxlen=self._maxlen, approximate=True)
        )

    def check(self) -> None:
        """Raise BrokerUnavailable unless the Redis that keeps the streams answers."""
        self._redis.check()

    def close(self) -> None:
        """Give the connections back; a later `publish` makes new ones."""
        if self._pid == os.getpid():
            self._progress.forget()
        self._redis.close()


def _plain(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
