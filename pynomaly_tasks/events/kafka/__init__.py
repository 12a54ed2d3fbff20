"""Apache Kafka as the log of events, on aiokafka."""
