"""Queues on Apache Kafka: `broker`; on Azure Event Hubs, through its Kafka endpoint: `event_hubs`."""
