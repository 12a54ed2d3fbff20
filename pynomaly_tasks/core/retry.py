"""When a failed attempt is tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with jitter and a ceiling.

    >>> policy = RetryPolicy(backoff_s=2, backoff_max_s=60, jitter=0)
    >>> [policy.delay_s(retry) for retry in range(1, 7)]
    [2.0, 4.0, 8.0, 16.0, 32.0, 60.0]
    """

    max_retries: int = 3  #: tries after the first, 0 to 10
    backoff_s: float = 2.0  #: before the first retry; doubles with each
    backoff_max_s: float = 600.0
    jitter: float = 0.25  #: share of the delay that is random, 0 to 1; it only shortens

    def delay_s(self, retry: int, rng: random.Random | None = None) -> float:
        """Seconds to wait before ``retry`` (from 1)."""
        exact = min(self.backoff_max_s, self.backoff_s * 2.0 ** (retry - 1))
        return exact * (1.0 - self.jitter * (rng or random).random())
