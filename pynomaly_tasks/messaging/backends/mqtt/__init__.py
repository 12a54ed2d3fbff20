"""Queues on an MQTT 5 broker: `broker`."""
