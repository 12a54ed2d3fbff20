"""The platform's worker for every queue with one more kind of job: ``celery -A support.full_worker worker``."""

from __future__ import annotations

from pynomaly_tasks.tasks.register import job_task
from support.faulty_kinds import ACT
from workers.all import app

act = job_task(ACT)

__all__ = ["act", "app"]
