"""Progress of jobs, thinned out to what people can follow: the latest always gets through."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

#: Makes the update of a progress; called only for one that is sent.
BuildUpdate: TypeAlias = Callable[[], Mapping[str, Any]]

_IDLE_S = 5.0


class ProgressThinner:
    """Sends at most ``per_s`` updates a second for each job.

    One that comes too soon waits, and is replaced by later ones: a thread sends what waits when its
    time has come, also when the job says nothing more. Of one process: made anew after a fork.
    """

    def __init__(self, send: Callable[[Mapping[str, Any]], None], per_s: float) -> None:
        self._send = send
        self._interval_s = 1.0 / per_s
        self._sent_at_s: dict[str, float] = {}
        self._waiting: dict[str, BuildUpdate] = {}
        # Held while sending, so that a job's updates keep their order.
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def offer(self, job_id: str, build: BuildUpdate) -> None:
        """Send it now, or later, or a later one instead."""
        with self._changed:
            now = time.monotonic()
            if now - self._sent_at_s.get(job_id, -self._interval_s) >= self._interval_s:
                self._waiting.pop(job_id, None)
                self._sent_at_s[job_id] = now
                self._send(build())
                return
            self._waiting[job_id] = build
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="progress of jobs", daemon=True)
                self._thread.start()
            self._changed.notify()

    def finish(self, job_id: str) -> None:
        """Send what waits: the job says nothing more, or what comes next must come after it."""
        with self._changed:
            build = self._waiting.pop(job_id, None)
            self._sent_at_s.pop(job_id, None)
            if build is not None:
                self._send(build())

    def forget(self) -> None:
        """Send nothing of what waits."""
        with self._changed:
            self._waiting.clear()

    def _work(self) -> None:
        with self._changed:
            try:
                while self._waiting or self._changed.wait(_IDLE_S):
                    self._send_due()
                    if self._waiting:
                        next_s = min(map(self._due_at_s, self._waiting))
                        self._changed.wait(max(0.001, next_s - time.monotonic()))
            finally:
                self._thread = None

    def _send_due(self) -> None:
        now = time.monotonic()
        for job_id in [job_id for job_id in self._waiting if self._due_at_s(job_id) <= now]:
            self._sent_at_s[job_id] = now
            self._send(self._waiting.pop(job_id)())

    def _due_at_s(self, job_id: str) -> float:
        return self._sent_at_s.get(job_id, 0.0) + self._interval_s
