"""Tasks of the queue ``data_processing``."""

from __future__ import annotations

from pynomaly_tasks.tasks.register import job_task

profile_dataset = job_task("profile_dataset")
