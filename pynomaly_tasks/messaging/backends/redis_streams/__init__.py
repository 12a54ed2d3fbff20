"""Queues on Redis Streams: `backend`."""
