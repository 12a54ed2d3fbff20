"""What ``.get()`` raises for a job whose own error is not at hand."""

from __future__ import annotations

from pynomaly_tasks.core.job import Job
from pynomaly_tasks.errors import PynomalyError


class JobFailed(PynomalyError):
    """The job failed or is in the dead letters; the message has the error that its row keeps."""

    @classmethod
    def of(cls, job: Job) -> JobFailed:
        """The failure of an ended job."""
        if job.error is None:
            return cls(f"job {job.id} is {job.state}")
        return cls(f"{job.error.type}: {job.error.message}")
