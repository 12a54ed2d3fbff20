"""Leaves a subscriber alone for a while that keeps failing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from pynomaly_tasks.errors import InvalidQueue


class WhenOpen(Enum):
    """What becomes of messages while the circuit is open."""

    WAIT = "wait"  #: they stay in the queue
    DEAD_LETTER = "dead_letter"  #: dead letters, with the reason circuit_open


class Circuit(Enum):
    """Whether messages are tried."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"  #: one is, to see


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """When to open, and for how long. Raises InvalidQueue."""

    n_failures: int = 5  #: in a row
    pause_s: float = 30.0
    when_open: WhenOpen = WhenOpen.WAIT

    def __post_init__(self) -> None:
        if type(self.n_failures) is not int or self.n_failures < 1:
            raise InvalidQueue.of(
                "n_failures", f"is {self.n_failures!r}; it must be a whole number from 1 on"
            )
        if not 0.0 < self.pause_s < float("inf"):
            raise InvalidQueue.of("pause_s", f"is {self.pause_s!r}; it must be seconds above 0")


class CircuitBreaker:
    """Of one queue, in one process. Opens after failures in a row; then one message decides."""

    def __init__(self, policy: BreakerPolicy, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.policy = policy
        self.n_opened = 0
        self._clock = clock
        self._n_failures = 0
        self._open_until: float | None = None

    @property
    def state(self) -> Circuit:
        """Now."""
        if self._open_until is None:
            return Circuit.CLOSED
        return Circuit.OPEN if self._clock() < self._open_until else Circuit.HALF_OPEN

    @property
    def open_for_s(self) -> float:
        """Until one message is tried; 0 where it may be now."""
        return max(0.0, (self._open_until or 0.0) - self._clock()) if self._open_until is not None else 0.0

    def succeeded(self) -> None:
        """A message was done: close."""
        self._n_failures = 0
        self._open_until = None

    def failed(self) -> None:
        """A message failed: open after enough of them, or at once where it was the one that decides."""
        self._n_failures += 1
        was = self.state
        if was is Circuit.HALF_OPEN or (was is Circuit.CLOSED and self._n_failures >= self.policy.n_failures):
            self._open_until = self._clock() + self.policy.pause_s
            self.n_opened += 1
