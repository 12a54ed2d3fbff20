"""Distributed anomaly detection jobs on Celery."""
