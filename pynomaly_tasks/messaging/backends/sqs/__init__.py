"""Queues on Amazon SQS: `broker`."""
