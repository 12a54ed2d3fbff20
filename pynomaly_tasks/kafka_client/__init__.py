"""What everything that speaks with Kafka needs of aiokafka, and aiokafka does not do by itself."""
