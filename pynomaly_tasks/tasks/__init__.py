"""The Celery tasks, one file a queue."""
