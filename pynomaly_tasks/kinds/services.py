"""What the kinds of jobs need from the outside world, joined in `bootstrap`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pynomaly_tasks.core.job import JobResult


class Artifacts(Protocol):
    """The files that jobs left, by key."""

    def read_bytes(self, key: str) -> bytes:
        """The whole file. Raises NotFound."""


class Results(Protocol):
    """The results of succeeded jobs."""

    def get_result(self, job_id: str) -> JobResult:
        """Raises NotFound while the job has none."""


class Datasets(Protocol):
    """Where the data lies."""

    def open(self, source: str, checkpoint: Callable[[], None] | None = None) -> Any:
        """A `pynomaly_tasks.datasets.Dataset`. Raises InvalidDataset, SourceUnavailable.

        checkpoint is called five times a second while rows are loaded; what it raises stops that.
        """


class DeliveryLog(Protocol):
    """One record for each (deduplication key, channel): what was sent, and how often it was tried."""

    def begin(self, dedup_key: str, channel: str, job_id: str) -> bool:
        """Count one more attempt; False when this key was delivered on this channel already.

        Raises DeliveryFailed while another running job delivers it.
        """

    def finish(self, dedup_key: str, channel: str, error: str | None) -> None:
        """Write how the attempt ended; None when it was delivered."""


class Sender(Protocol):
    """One notification channel."""

    def send(self, subject: str, body: str) -> None:
        """Deliver. Raises an Unavailable when trying later may help."""


class Channels(Protocol):
    """The notification channels that the settings name."""

    def find(self, name: str) -> Sender | None:
        """The channel, or None when there is no such name."""

    def names(self) -> tuple[str, ...]:
        """All names, ``log`` among them."""


class Post(Protocol):
    """What a receiver answered that took a post."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def duration_s(self) -> float:
        """Until the answer was read."""


class Receiver(Protocol):
    """An address that events are posted to."""

    def post(self, message_id: str, body: bytes) -> Post:
        """Post, signed. Raises an error whose ``retryable`` says whether trying later may help."""


class Webhooks(Protocol):
    """The receivers that the settings name."""

    def find(self, name: str) -> Receiver | None:
        """The receiver, or None when there is no such name."""

    def names(self) -> tuple[str, ...]:
        """All names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Handed to every `perform`."""

    datasets: Datasets
    results: Results
    artifacts: Artifacts
    channels: Channels
    deliveries: DeliveryLog
    webhooks: Webhooks
