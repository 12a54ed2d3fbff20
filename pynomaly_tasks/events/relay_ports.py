"""What the relay needs of its neighbours, and how it works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pynomaly_tasks.core.event import OutboxEntry
from pynomaly_tasks.core.outbox import OutboxLag, UnreadableEntry


class Outbox(Protocol):
    """The store's side; see `store.relaying`. Every call may raise StoreUnavailable."""

    def list_unsent(self, limit: int, besides: Sequence[int] = ()) -> list[OutboxEntry | UnreadableEntry]:
        """What waits."""

    def mark_sent(self, numbers: Sequence[int], *, keep: bool = True) -> None:
        """What the log has."""

    def hold_back(self, errors: Mapping[int, str], longest_s: float) -> None:
        """What failed."""

    def refuse(self, reasons: Mapping[int, str]) -> int:
        """What can never be published."""

    def take_relay_lease(self, holder: str, lease_s: float, error: str | None = None) -> bool:
        """Become or stay the one that publishes."""

    def give_up_relay_lease(self, holder: str) -> None:
        """Let another one publish."""

    def prune_outbox(self, age_s: float, limit: int) -> int:
        """Remove what was published long ago."""

    def get_outbox_lag(self) -> OutboxLag:
        """How far publishing is behind."""


class Wake(Protocol):
    """The bell; see `events.wake`. No call raises."""

    async def wait(self, timeout_s: float) -> None:
        """Until something was written."""

    async def wait_for_vacancy(self, timeout_s: float) -> None:
        """Until the relay that publishes has given up."""

    async def tell_vacancy(self) -> None:
        """Have a relay that stands by take over."""

    async def close(self) -> None:
        """Disconnect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayOptions:
    """How a relay works; the settings' section `outbox`."""

    batch_size: int = 1_000
    poll_s: float = 1.0
    lease_s: float = 10.0
    backoff_max_s: float = 10.0
    keep_sent_s: float = 86_400.0
    producer_timeout_s: float = 10.0
