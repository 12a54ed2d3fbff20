"""What the engine of a group needs from the group: something to do about events, each once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import sha256
from typing import Protocol

from pynomaly_tasks.core.event import Event


class Effect(Protocol):
    """What a group does about events."""

    @property
    def batch_size(self) -> int:
        """Events that `apply` takes at once, at most. One: each is tried, timed and kept by itself."""

    async def apply(self, events: Sequence[Event], *, replay_id: str | None = None) -> int:
        """Apply those that were not applied before, in their order, all or none; how many were.

        Events come again: from a relay or a member that died, with equal ids. ``replay_id`` names a
        replay, in which each event is applied once more. An error whose ``retryable`` is true is a
        neighbour that is away: the events wait. Any other is the event's own.
        """

    async def close(self) -> None:
        """Give back what is held, such as connections."""


class Inbox(Protocol):
    """Which events each group has applied."""

    def missing(self, group: str, keys: Collection[str]) -> set[str]:
        """Those of the keys that the group has not applied. Raises StoreUnavailable."""

    def mark(self, group: str, keys: Collection[str]) -> None:
        """Note them as applied; repeating it changes nothing. Raises StoreUnavailable."""


#: Characters; a longer key is kept as its hash.
MAX_INBOX_KEY = 255


def inbox_key(event: Event, own_source: str, replay_id: str | None = None, part: str = "") -> str:
    """What an event is called in the inbox: its id, with the source where that is not ours.

    Unique over everything that a group reads: an id alone is unique only within its source.
    ``part`` tells the parts of a group apart that apply an event each by itself.
    """
    key = event.id if event.source in ("", own_source) else f"{event.source}#{event.id}"
    key = key if replay_id is None else f"{replay_id}/{key}"
    key = f"{key}|{part}" if part else key
    if len(key) <= MAX_INBOX_KEY:
        return key
    return f"sha256:{sha256(key.encode()).hexdigest()}"
