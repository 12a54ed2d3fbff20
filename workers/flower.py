"""Celery's own view of the workers: ``celery -A workers.flower flower``."""

from pynomaly_tasks.bootstrap import app
from pynomaly_tasks.tasks.startup import settings_or_exit
from pynomaly_tasks.tasks.worker import TASK_MODULES

settings_or_exit("flower")

__all__ = ["TASK_MODULES", "app"]
