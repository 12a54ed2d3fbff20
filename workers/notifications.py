"""Worker for ``notifications``, waiting for other servers in threads: ``celery -A workers.notifications worker``."""

from pynomaly_tasks.tasks.worker import build_worker

app = build_worker(["notifications"], pool="threads", imports=["apprise"])
