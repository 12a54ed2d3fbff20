"""Celery's side of the platform: the app with its options, and the queue that rings for jobs."""
