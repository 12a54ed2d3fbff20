"""Telling others of a job at once: people how far it is, the relay that its change is to be published."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from pynomaly_tasks.core.job import Job, Progress
from pynomaly_tasks.core.redact import mask_url
from pynomaly_tasks.jobs.ports import Bell, Stream


class Announcer:
    """The live updates and the relay's bell as one."""

    def __init__(self, stream: Stream, bell: Bell) -> None:
        self._stream = stream
        self._bell = bell

    def publish_progress(self, job_id: str, build: Callable[[], Mapping[str, Any]]) -> None:
        """See `Stream.publish_progress`."""
        self._stream.publish_progress(job_id, build)

    def finish_progress(self, job_id: str) -> None:
        """See `Stream.finish_progress`."""
        self._stream.finish_progress(job_id)

    def wake_relay(self) -> None:
        """See `Updates.wake_relay`."""
        self._bell.ring()


def announce_progress(stream: Stream, job: Job, progress: Progress) -> None:
    """Send how far the job is, as far as people can follow; its changes of state come as events."""
    stream.publish_progress(job.id, lambda: _frame(job, progress))


def _frame(job: Job, progress: Progress) -> dict[str, Any]:
    dataset = job.request.get("dataset")
    return {
        "type": "job",
        "event": "job.progress",
        "job_id": job.id,
        "kind": job.kind,
        "queue": job.queue,
        "state": job.state.value,
        "attempt": job.attempt,
        "progress": asdict(progress),
        "summary": job.summary,
        "error": None if job.error is None else {"type": job.error.type, "message": job.error.message},
        "tags": list(job.tags),
        "dataset": mask_url(dataset) if isinstance(dataset, str) else None,
        "at": time.time(),
    }
