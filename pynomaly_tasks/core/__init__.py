"""The shared words: Job, RetryPolicy, ids. Imports nothing of the platform."""
