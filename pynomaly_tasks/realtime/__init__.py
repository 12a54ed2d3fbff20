"""Live updates over Redis Streams: published by workers, read once a process for all who watch."""
