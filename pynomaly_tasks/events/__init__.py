"""Domain events as CloudEvents: their codec, the logs that keep them, the outbox relay, the consumers' engine."""
