"""Queues on RabbitMQ: `broker`."""
