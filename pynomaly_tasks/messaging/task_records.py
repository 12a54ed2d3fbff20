"""What a broker must keep for tasks: one record each, and the steps by which it changes.

A record says where a task stands; the message in its queue, its *bell*, only says that it may be
run. Both are changed in one step, so that a crash leaves no task without its bell: a task that has
not ended has exactly one bell once its parents have succeeded. Each step is atomic over all
processes, and by the broker's clock.

A backend that can keep them says so (capability ``tasks``) and has a method ``task_records``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, StrEnum
from typing import Protocol, runtime_checkable

from pynomaly_tasks.messaging.backend import Entry

#: Tasks that wait for one parent; its end changes them all in one step.
MAX_CHILDREN = 1_000


class TaskState(StrEnum):
    """Where a task stands."""

    WAITING = "waiting"  #: for its time, for its parents, or between tries or runs
    QUEUED = "queued"  #: a worker may start it
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PARENT_FAILED = "parent_failed"  #: a task that it was to follow failed or was cancelled; it never ran

    @property
    def is_final(self) -> bool:
        """Whether the task has ended."""
        return self not in (TaskState.WAITING, TaskState.QUEUED, TaskState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A task to be kept."""

    id: str
    type: str
    bell: Entry  #: put when the parents have succeeded; its delay counts from then to ``run_at``
    body: bytes  #: what was asked for
    fingerprint: str  #: of what was asked for; equal for equal requests
    key: str = ""  #: a second task of this key is not made while the first is known
    run_at: datetime | None = None  #: not started before; goes before ``bell.delay_s``
    every_s: float | None = None  #: run again and again, this long apart
    n_runs: int | None = None  #: so often in all; None: until it is cancelled
    keep_s: float = 86_400.0  #: how long its record is kept after its end
    max_lost: int = 3  #: so many workers may die with it
    after: tuple[str, ...] = ()  #: its parents


class Addition(Enum):
    """What became of a new task."""

    ADDED = "added"
    EXISTS = "exists"  #: there is one of this key
    NO_QUEUE = "no_queue"  #: nothing was kept: the bell's channel is no queue
    NO_PARENT = "no_parent"
    PARENT_REPEATS = "parent_repeats"  #: which has no end to wait for
    PARENT_FULL = "parent_full"  #: `MAX_CHILDREN` wait for it


@dataclass(frozen=True, slots=True)
class Added:
    """The answer to a new task; ``task_id`` is the new one, the one that exists, or the parent in question."""

    what: Addition
    task_id: str
    fingerprint: str = ""  #: of the one that exists


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """A task as it is kept."""

    id: str
    type: str
    state: TaskState
    body: bytes
    priority: int
    after: tuple[str, ...]
    n_waiting_for: int  #: parents that have not ended
    attempt: int  #: starts so far; names the attempt that runs
    n_failed: int  #: tries of this run that raised
    n_lost: int  #: tries of this run whose worker died
    n_runs: int  #: that ended, of a task that repeats
    every_s: float | None
    created_at: datetime
    run_at: datetime  #: not before; of a task that repeats, its next run
    started_at: datetime | None
    ended_at: datetime | None
    worker: str
    progress: bytes  #: empty: none was told
    outcome: bytes  #: of the last try; empty before its end
    worker_died: bool  #: it failed because ``max_lost`` workers died with it
    failed_parent: str
    failed_parent_state: str


class Ring(Enum):
    """What a bell means when it is heard."""

    STARTED = "started"
    LATER = "later"  #: it is not due
    ENDED = "ended"  #: there is nothing to do: it ended
    UNKNOWN = "unknown"  #: it ended so long ago that it was forgotten


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The answer to a start."""

    what: Ring
    record: TaskRecord | None = None  #: of what was started
    delay_s: float = 0.0  #: until it is due


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """A running attempt, and how far it is; empty: nothing new."""

    task_id: str
    attempt: int
    progress: bytes = b""


class TryOutcome(Enum):
    """How one try ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETRY = "retry"  #: it raised, and is tried again


@dataclass(frozen=True, slots=True, kw_only=True)
class TryEnd:
    """How an attempt ended, and what it says of itself."""

    task_id: str
    attempt: int
    outcome: TryOutcome
    report: bytes
    delay_s: float = 0.0  #: before a retry
    progress: bytes = b""  #: empty: nothing new


class FinishedAs(Enum):
    """What became of the end of a try."""

    ENDED = "ended"
    AGAIN = "again"  #: it is run again, a try or a run
    LOST = "lost"  #: the task was cancelled, or another attempt has it: nothing was changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The answer to the end of a try."""

    what: FinishedAs
    delay_s: float = 0.0  #: until it is run again


class TaskRecords(Protocol):
    """The records of one namespace. Raises BrokerUnavailable and MessagingClosed as the backend does."""

    async def add(self, task: NewTask) -> Added:
        """Keep it, and put its bell unless it waits for parents. A parent that failed ends it at once."""

    async def find(self, task_ids: Sequence[str]) -> list[TaskRecord | None]:
        """Each, or None where there is none."""

    async def start(self, task_id: str, worker: str) -> Started:
        """Begin an attempt. One that still ran was lost with its worker, and is fenced off."""

    async def beat(self, beats: Sequence[Beat]) -> list[bool]:
        """Keep the progress of attempts; False where the task was cancelled or is another's."""

    async def finish(self, end: TryEnd) -> Finished:
        """End an attempt."""

    async def cancel(self, task_id: str, report: bytes) -> bool | None:
        """End it unless it has ended; None where there is none."""

    async def newest(self, limit: int) -> list[str]:
        """Ids, newest first."""


@runtime_checkable
class KeepsTasks(Protocol):
    """A backend with the capability ``tasks``."""

    def task_records(self) -> TaskRecords:
        """The records on its broker."""
