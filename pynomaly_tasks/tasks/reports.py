"""Tasks of the queue ``reports``."""

from __future__ import annotations

from pynomaly_tasks.tasks.register import job_task

generate_report = job_task("generate_report")
