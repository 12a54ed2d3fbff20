"""Removing what ended long ago."""

from __future__ import annotations

from typing import Protocol

_REMOVED_AT_ONCE = 500


class EndedJobs(Protocol):
    """The stored jobs."""

    def list_ended_before(self, age_s: float, limit: int) -> list[str]:
        """Ids of jobs that ended longer ago than that."""

    def delete_jobs(self, job_ids: list[str]) -> int:
        """Delete ended jobs with all that hangs on them; how many went."""


class Files(Protocol):
    """The files that jobs left."""

    def delete_job(self, job_id: str) -> None:
        """Delete the files of every attempt."""


def remove_old_jobs(store: EndedJobs, files: Files, *, age_s: float) -> int:
    """Remove jobs that ended longer ago than ``age_s``, and their files; how many."""
    n_removed = 0
    while job_ids := store.list_ended_before(age_s, _REMOVED_AT_ONCE):
        for job_id in job_ids:
            files.delete_job(job_id)
        n_removed += store.delete_jobs(job_ids)
    return n_removed
