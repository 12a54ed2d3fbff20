"""The doorbell that a process rings after it wrote to the outbox; the relay listens."""

from __future__ import annotations

from pynomaly_tasks.core.outbox import WAKE_KEY, WAKE_MEMBER
from pynomaly_tasks.realtime.best_effort import BestEffortRedis


class OutboxBell:
    """Has the relay look at once; best effort, never in the way of a job."""

    def __init__(self, url: str, *, timeout_s: float = 0.25) -> None:
        self._redis = BestEffortRedis(url, "relay_wakes", timeout_s=timeout_s)

    def ring(self) -> None:
        """Never raises. What Redis being away costs, see `BestEffortRedis`."""
        self._redis.send(lambda redis: redis.zadd(WAKE_KEY, {WAKE_MEMBER: 0}))

    def close(self) -> None:
        """Give the connections back; a later `ring` makes new ones."""
        self._redis.close()
