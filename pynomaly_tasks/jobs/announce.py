"""Telling people who watch that a job changed."""

from __future__ import annotations

import time
from dataclasses import asdict

from pynomaly_tasks.core.job import Job, Progress
from pynomaly_tasks.jobs.ports import Updates


def announce(updates: Updates, job: Job, progress: Progress | None = None) -> None:
    """Send the job's state, and how far it is."""
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
