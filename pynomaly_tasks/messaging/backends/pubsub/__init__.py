"""Queues on Google Cloud Pub/Sub: `broker`."""
