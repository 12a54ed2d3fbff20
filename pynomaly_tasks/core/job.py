"""What a job is: its states, the arrows between them, and the values that describe it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeAlias

from pynomaly_tasks.core.event_data import EventData
from pynomaly_tasks.core.retry import RetryPolicy

Json: TypeAlias = Mapping[str, Any]


class JobState(StrEnum):
    """Where a job stands."""

    WAITING = "waiting"  #: not due yet, between tries, or behind its ordering key
    QUEUED = "queued"  #: due; a message in the broker rings for it
    RUNNING = "running"  #: an attempt holds a lease
    SUCCEEDED = "succeeded"
    FAILED = "failed"  #: an error that trying again cannot mend
    CANCELLED = "cancelled"
    DEAD = "dead"  #: in the dead letters, with a reason

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return not ALLOWED[self]


#: The only arrows there are. The store enforces them by compare-and-set.
ALLOWED: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        JobState.WAITING: frozenset({JobState.QUEUED, JobState.CANCELLED, JobState.DEAD}),
        JobState.QUEUED: frozenset({JobState.RUNNING, JobState.WAITING, JobState.CANCELLED, JobState.DEAD}),
        JobState.RUNNING: frozenset(
            {
                JobState.SUCCEEDED,
                JobState.FAILED,
                JobState.CANCELLED,
                JobState.WAITING,  # retry, after its backoff
                JobState.QUEUED,  # the lease ran out
                JobState.DEAD,
            }
        ),
        JobState.SUCCEEDED: frozenset(),
        JobState.FAILED: frozenset(),
        JobState.CANCELLED: frozenset(),
        JobState.DEAD: frozenset(),
    }
)

FINAL_STATES = frozenset(state for state in JobState if state.is_final)


class AttemptOutcome(StrEnum):
    """How one try of a job ended."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    LOST = "lost"  #: the worker died, or its lease ran out


class DeadReason(StrEnum):
    """Why a job, or a message, is in the dead letters."""

    RETRIES_USED_UP = "retries_used_up"
    WORKER_KILLED = "worker_killed"  #: it took its worker down as often as is allowed
    UNREADABLE = "unreadable"
    UNKNOWN_TASK = "unknown_task"
    DEADLINE_PASSED = "deadline_passed"
    EVENT_REFUSED = "event_refused"  #: the log of events will never take it


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a running job is: ``current`` of ``total`` steps, in its own unit of work."""

    current: int
    total: int
    status: str  #: a short phrase for people, such as "scoring rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """What went wrong in an attempt."""

    type: str
    message: str
    traceback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job as submitted, validated and not yet stored."""

    id: str
    kind: str
    queue: str
    request: Json
    priority: int = 0  #: 0 to 9, higher first
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    time_limit_s: float | None = None  #: of one attempt
    delay_s: float | None = None  #: from now, by the store's clock; excludes run_at
    run_at: datetime | None = None
    deadline_at: datetime | None = None  #: not started by then: dead letter
    idempotency_key: str | None = None
    ordering_key: str | None = None
    tags: Sequence[str] = ()
    owner: str = ""
    replay_of: str | None = None
    parent_id: str | None = None  #: the job before this one in a chain
    root_id: str | None = None  #: the first job of a chain, group or chord
    envelope: Json = field(default_factory=dict)  #: Celery's own options: chain, link, chord ...
    events: Sequence[EventData] = ()  #: told in the transaction that stores it, after that it was submitted


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of a task with its arguments, as stored."""

    id: str
    seq: int  #: order of submission
    kind: str
    queue: str
    state: JobState
    request: Json
    priority: int
    attempt: int  #: tries started so far; 0 before the first
    n_failed: int  #: tries that ended with an error
    n_lost: int  #: tries that ended with a dead worker
    retry: RetryPolicy
    time_limit_s: float | None
    run_at: datetime
    deadline_at: datetime | None
    idempotency_key: str | None
    ordering_key: str | None
    tags: Sequence[str]
    owner: str
    replay_of: str | None
    parent_id: str | None
    root_id: str | None
    envelope: Json
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    lease_until_at: datetime | None
    worker: str | None
    cancel_requested_at: datetime | None
    progress: Progress | None
    summary: Json | None  #: of a succeeded job: ``{job_id, status, anomalies_found, processing_time}``
    error: JobError | None
    dead_reason: DeadReason | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try of a job."""

    job_id: str
    number: int  #: from 1
    worker: str
    outcome: AttemptOutcome
    started_at: datetime
    finished_at: datetime | None
    error: JobError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What a succeeded job left: a small summary, and files by name."""

    job_id: str
    attempt: int
    summary: Json
    detail: Json  #: everything the summary has no room for; shown by web and report
    artifacts: Mapping[str, str]  #: name, such as ``scores.parquet``, to artifact key
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Work kept for a person, with its reason."""

    id: int
    job_id: str | None  #: None for a message that never became a job
    kind: str | None
    queue: str
    reason: DeadReason
    message: str
    payload: bytes  #: the request as JSON, or the raw message
    n_attempts: int
    created_at: datetime
    replayed_as: str | None
    discarded_at: datetime | None
