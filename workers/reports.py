"""Worker for ``reports``, in threads: ``celery -A workers.reports worker``."""

from pynomaly_tasks.tasks.worker import build_worker

app = build_worker(["reports"], pool="threads", imports=["jinja2"])
