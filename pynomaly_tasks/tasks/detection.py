"""Tasks of the queue ``anomaly_detection``."""

from __future__ import annotations

from pynomaly_tasks.tasks.register import job_task

detect_anomalies = job_task("detect_anomalies")
detect_ensemble = job_task("detect_ensemble")
