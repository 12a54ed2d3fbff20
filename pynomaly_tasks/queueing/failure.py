"""What ``.get()`` raises for a job that failed."""

from __future__ import annotations

from pynomaly_tasks import errors
from pynomaly_tasks.core.job import Job
from pynomaly_tasks.errors import JobFailed, PynomalyError


def failure_of(job: Job, raised: BaseException | None = None) -> BaseException:
    """What its last attempt raised, or as near to that as the words in its row come."""
    stored = job.error
    if stored is None:
        return JobFailed(f"job {job.id} is {job.state}")
    if raised is not None and type(raised).__name__ == stored.type:
        return raised
    known = getattr(errors, stored.type, None)
    if isinstance(known, type) and issubclass(known, PynomalyError):
        return known(stored.message)
    return JobFailed(f"{stored.type}: {stored.message}")
