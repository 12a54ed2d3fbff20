"""What a person asks about the outbox, and rows of it that are no event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

# The doorbell of the relay: sorted sets without expiry in the Redis of the live streams, of one member
# each, so that ringing twice is ringing once, and a ring that nobody heard waits.
WAKE_KEY = "outbox:wake"
VACANT_KEY = "outbox:vacant"  #: the relay's lease was given up: a relay that stands by may take it
WAKE_MEMBER = "go"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableEntry:
    """A row that some other program wrote, or damaged: no event can be made of it."""

    number: int
    topic: str
    key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBack:
    """A key whose events wait because publishing one of them failed for a reason of its own."""

    topic: str
    key: str
    type: str  #: of the event that failed
    n_attempts: int
    retry_at: datetime  #: UTC
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxLag:
    """How far publishing is behind."""

    n_unsent: int
    oldest_age_s: float | None  #: since the oldest unsent event was written; None when nothing waits
    n_held_back: int  #: keys
    relay: str | None  #: the relay that publishes now; None when there is none
    last_error: str | None  #: why that relay cannot publish just now


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxStatus:
    """The lag, and the keys that are held back, the longest waiting first."""

    lag: OutboxLag
    held_back: Sequence[HeldBack]
