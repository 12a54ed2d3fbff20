"""Worker for ``default``: rescue, promotion, cleanup, health: ``celery -A workers.default worker``."""

from pynomaly_tasks.tasks.worker import build_worker

app = build_worker(["default"], pool="threads")
