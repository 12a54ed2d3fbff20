"""Telling people who watch that a job changed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pynomaly_tasks.core.job import Job, Progress
from pynomaly_tasks.jobs.ports import Bell, Stream, Updates


class Announcer:
    """The live updates and the relay's bell as one."""

    def __init__(self, stream: Stream, bell: Bell) -> None:
        self._stream = stream
        self._bell = bell

    def publish(self, update: Mapping[str, Any]) -> None:
        """See `Updates.publish`."""
        self._stream.publish(update)

    def wake_relay(self) -> None:
        """See `Updates.wake_relay`."""
        self._bell.ring()


def announce(updates: Updates, job: Job, progress: Progress | None = None) -> None:
    """Send the job's state, and how far it is; have the events of its change published."""
    if progress is None:
        updates.wake_relay()
    shown = progress or job.progress
    updates.publish(
        {
            "type": "job",
            "job_id": job.id,
            "kind": job.kind,
            "state": job.state.value,
            "attempt": job.attempt,
            "progress": None if shown is None else asdict(shown),
            "summary": job.summary,
            "error": None if job.error is None else {"type": job.error.type, "message": job.error.message},
            "at": time.time(),
        }
    )
