"""Events of a job: each change of its state is told by one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import Field

from pynomaly_tasks.core.event import JOB_EVENTS
from pynomaly_tasks.core.event_data import EventData, JobId
from pynomaly_tasks.core.job import JobState, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What went wrong."""

    type: Annotated[str, Field(description="Class of the error.")]
    message: Annotated[str, Field(description="What it says.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent(EventData):
    """What each event of a job says of the job."""

    topic: ClassVar[str] = JOB_EVENTS
    subject_field: ClassVar[str | None] = "job_id"

    job_id: Annotated[JobId, Field(description="The job.")]
    kind: Annotated[str, Field(description="What the job does, such as detect_anomalies.")]
    queue: Annotated[str, Field(description="Its Celery queue.")]
    state: Annotated[JobState, Field(description="The job's state from this event on.")]
    attempt: Annotated[int, Field(ge=0, description="Tries started so far; 0 before the first.")]
    tags: Annotated[tuple[str, ...], Field(description="As given when it was submitted.")] = ()
    dataset: Annotated[
        str | None, Field(description="The data it is about, passwords and query values masked.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmitted(JobEvent):
    """A job was stored, and will end."""

    type: ClassVar[str] = "job.submitted"

    run_at: Annotated[datetime, Field(description="Not started before.")]
    priority: Annotated[int, Field(ge=0, le=9, description="Higher first.")] = 0
    owner: Annotated[str, Field(description="Who asked for it, as far as known.")] = ""
    ordering_key: Annotated[
        str | None, Field(description="Jobs with one key run one at a time, in order.")
    ] = None
    replay_of: Annotated[str | None, Field(description="The ended job that this one runs again.")] = None
    parent_id: Annotated[str | None, Field(description="The job before it in a chain.")] = None
    root_id: Annotated[str | None, Field(description="The first job of its chain, group or chord.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQueued(JobEvent):
    """A job that waited for its time, its next try or an earlier job is due."""

    type: ClassVar[str] = "job.queued"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStarted(JobEvent):
    """An attempt of a job began."""

    type: ClassVar[str] = "job.started"

    worker: Annotated[str, Field(description="The worker that runs it.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRetrying(JobEvent):
    """An attempt ended without success, and there will be another."""

    type: ClassVar[str] = "job.retrying"

    error: Annotated[Failure | None, Field(description="Why the attempt ended.")]
    retry_at: Annotated[datetime, Field(description="The next attempt is not started before.")]
    n_failed: Annotated[int, Field(ge=0, description="Attempts that ended with an error.")]
    n_lost: Annotated[int, Field(ge=0, description="Attempts whose worker died.")]
    max_retries: Annotated[int, Field(ge=0, description="Attempts after the first that may fail.")]
    progress: Annotated[Progress | None, Field(description="How far the attempt came.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCompleted(JobEvent):
    """A job succeeded."""

    type: ClassVar[str] = "job.completed"

    summary: Annotated[
        Mapping[str, Any],
        Field(description="job_id, status, anomalies_found, processing_time and a few more."),
    ]
    result: Annotated[str, Field(description="Path of the whole result in the web API.")]
    progress: Annotated[Progress | None, Field(description="The last that was told.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFailed(JobEvent):
    """A job ended with an error that trying again cannot mend."""

    type: ClassVar[str] = "job.failed"

    error: Annotated[Failure | None, Field(description="What went wrong.")]
    progress: Annotated[Progress | None, Field(description="How far it came.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCancelled(JobEvent):
    """A job was cancelled, before its start or while it ran."""

    type: ClassVar[str] = "job.cancelled"

    reason: Annotated[str, Field(description="What was said when it was cancelled.")] = ""
    progress: Annotated[Progress | None, Field(description="How far it came.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDeadLettered(JobEvent):
    """A job went to the dead letters, where a person decides."""

    type: ClassVar[str] = "job.dead_lettered"

    reason: Annotated[str, Field(description="Why, in one word, such as retries_used_up.")]
    error: Annotated[Failure | None, Field(description="The last error.")]
    progress: Annotated[Progress | None, Field(description="How far it came.")] = None
