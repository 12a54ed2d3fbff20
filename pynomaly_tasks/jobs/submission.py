"""What a caller hands in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pynomaly_tasks.core.event_data import EventData
from pynomaly_tasks.core.job import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One job to accept, as the caller sent it."""

    kind: str
    request: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    job_id: str | None = None  #: where the caller named it, as Celery's canvas does
    envelope: Json = field(default_factory=dict)
    events: Sequence[EventData] = ()  #: told in the transaction that stores the job
