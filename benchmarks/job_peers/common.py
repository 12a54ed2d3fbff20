"""What every peer of the job benchmark shares: where its servers are, and the job that does nothing."""

from __future__ import annotations

import os

import redis

REDIS_URL = os.environ["BENCH_REDIS"]
POSTGRES_URL = os.environ.get("BENCH_POSTGRES", "")
_counter: redis.Redis | None = None


def count() -> None:
    """The job's whole work: one INCR, by which the benchmark sees that it ran."""
    global _counter
    if _counter is None:
        _counter = redis.Redis.from_url(f"{REDIS_URL}/9")
    _counter.incr("done")
