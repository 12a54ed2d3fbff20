"""What work code may do while its job runs: report progress, notice that it must stop, leave files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from pynomaly_tasks.core.event_data import EventData
from pynomaly_tasks.core.job import Json


class JobContext(Protocol):
    """The running attempt, as its work code sees it."""

    @property
    def job_id(self) -> str:
        """The job."""

    @property
    def attempt(self) -> int:
        """Which try this is, from 1."""

    @property
    def scratch(self) -> Path:
        """An empty directory of this attempt's own; removed when the attempt ends."""

    def progress(self, current: int, total: int, status: str) -> None:
        """Tell whoever watches. Cheap: call it for every batch. Also a checkpoint."""

    def checkpoint(self) -> None:
        """Raise an Interrupted when the job is cancelled or out of time. Call it at least twice a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an attempt that succeeded leaves behind."""

    anomalies_found: int | None = None  #: None where the kind of job finds none
    summary: Json = field(default_factory=dict)  #: a few more values for ``.get()``; small
    detail: Json = field(default_factory=dict)  #: JSON for web and report, up to a few MB
    files: Mapping[str, Path] = field(default_factory=dict)  #: name to a file in ``scratch``
    events: Sequence[EventData] = ()  #: told together with the job's end, or not at all


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of job: what it takes and where its work is done."""

    name: str  #: the task is ``pynomaly.tasks.<name>``
    queue: str
    request_model: type[BaseModel]
    perform: Callable[[JobContext, Any, Any], Outcome]  #: (context, request, services)
    check: Callable[[Any, Any], None] | None = None  #: (request, datasets), cheap, before the job is stored
    time_limit_s: float | None = None  #: of one attempt, unless the job names its own
