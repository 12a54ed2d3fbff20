"""Celery's own view of the workers: ``celery -A workers.flower flower``."""

from pynomaly_tasks.bootstrap import app
from pynomaly_tasks.tasks.worker import TASK_MODULES

__all__ = ["TASK_MODULES", "app"]
