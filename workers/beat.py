"""The clock: ``celery -A workers.beat beat``. Any number may run."""

from pynomaly_tasks.bootstrap import app
from pynomaly_tasks.tasks.beat import schedule

schedule(app)
