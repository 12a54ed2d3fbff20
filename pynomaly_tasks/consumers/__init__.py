"""What the platform itself does about events: one module a consumer group."""
