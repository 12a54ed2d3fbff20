"""The platform's own worker with one more kind of job: ``celery -A support.faulty_worker worker``."""

from __future__ import annotations

from pynomaly_tasks.tasks.register import job_task
from pynomaly_tasks.tasks.worker import build_worker
from support.faulty_kinds import ACT

act = job_task(ACT)
app = build_worker(pool="prefork")
