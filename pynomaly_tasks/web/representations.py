"""What the JSON interface takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Self
from urllib.parse import quote

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from pynomaly_tasks.core.job import (
    Attempt,
    AttemptOutcome,
    DeadLetter,
    DeadReason,
    Job,
    JobError,
    JobState,
    Progress,
)
from pynomaly_tasks.jobs.options import Key, Tag

_EXAMPLE: JsonDict = {
    "kind": "detect_anomalies",
    "request": {"dataset": "machine_temperature.csv", "detector": {"name": "isolation_forest"}},
    "priority": 5,
}


#: Every time zone's version of it is one that databases and calendars can hold.
Instant = Annotated[
    AwareDatetime, Field(ge=datetime(1970, 1, 2, tzinfo=UTC), lt=datetime(9999, 1, 1, tzinfo=UTC))
]


class SubmitJob(BaseModel):
    """A job to run. What ``request`` may hold depends on ``kind``."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={"examples": [_EXAMPLE]},
    )

    kind: str = Field(min_length=1, max_length=100)
    request: dict[str, Any]
    priority: int = Field(0, ge=0, le=9, strict=True, description="Higher first.")
    delay_s: float | None = Field(
        None, ge=0, description="Seconds to wait before it may start; excludes run_at."
    )
    run_at: Instant | None = None
    deadline_at: Instant | None = Field(None, description="Not started by then: a dead letter.")
    time_limit_s: float | None = Field(None, gt=0, description="Of one attempt.")
    ordering_key: Key | None = Field(None, description="Jobs with one key run one at a time, in order.")
    tags: list[Tag] = Field(default_factory=list, max_length=20)
    max_retries: int | None = Field(None, ge=0, le=10, description="Tries after the first.")
    backoff_s: float | None = Field(
        None, gt=0, le=86_400, description="Before the first retry; doubles then."
    )


class CancelJob(BaseModel):
    """Why a job is cancelled."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("", max_length=500, pattern=r"^[^\x00-\x1f]*$")


class RetryJob(BaseModel):
    """A new job like an old one."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    request: dict[str, Any] | None = Field(
        None, description="Fields of the old request to replace; the rest stays.", examples=[{"seed": 7}]
    )


class ProgressView(BaseModel):
    """How far a running job is."""

    current: int
    total: int
    status: str

    @classmethod
    def of(cls, progress: Progress | None) -> Self | None:
        """The same, for JSON."""
        if progress is None:
            return None
        return cls(current=progress.current, total=progress.total, status=progress.status)


class ErrorView(BaseModel):
    """What went wrong in an attempt."""

    type: str
    message: str
    traceback: str

    @classmethod
    def of(cls, error: JobError | None) -> Self | None:
        """The same, for JSON."""
        return (
            None if error is None else cls(type=error.type, message=error.message, traceback=error.traceback)
        )


class AttemptView(BaseModel):
    """One try of a job."""

    number: int
    worker: str
    outcome: AttemptOutcome
    started_at: AwareDatetime
    finished_at: AwareDatetime | None
    error: ErrorView | None

    @classmethod
    def of(cls, attempt: Attempt) -> Self:
        """The same, for JSON."""
        return cls(
            number=attempt.number,
            worker=attempt.worker,
            outcome=attempt.outcome,
            started_at=attempt.started_at,
            finished_at=attempt.finished_at,
            error=ErrorView.of(attempt.error),
        )


class JobView(BaseModel):
    """A job as it stands."""

    id: str
    seq: int
    kind: str
    queue: str
    state: JobState
    request: dict[str, Any]
    priority: int
    attempt: int
    max_retries: int
    time_limit_s: float | None
    run_at: AwareDatetime
    deadline_at: AwareDatetime | None
    idempotency_key: str | None
    ordering_key: str | None
    tags: list[str]
    owner: str
    replay_of: str | None
    parent_id: str | None
    root_id: str | None
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    worker: str | None
    cancel_requested_at: AwareDatetime | None
    progress: ProgressView | None
    summary: dict[str, Any] | None
    error: ErrorView | None
    dead_reason: DeadReason | None
    attempts: list[AttemptView] | None = Field(None, description="Of a single job; None in lists.")
    links: dict[str, str]

    @classmethod
    def of(cls, job: Job, attempts: Sequence[Attempt] | None = None) -> Self:
        """The same, for JSON, with the addresses of what belongs to it."""
        return cls(
            id=job.id,
            seq=job.seq,
            kind=job.kind,
            queue=job.queue,
            state=job.state,
            request=dict(job.request),
            priority=job.priority,
            attempt=job.attempt,
            max_retries=job.retry.max_retries,
            time_limit_s=job.time_limit_s,
            run_at=job.run_at,
            deadline_at=job.deadline_at,
            idempotency_key=job.idempotency_key,
            ordering_key=job.ordering_key,
            tags=list(job.tags),
            owner=job.owner,
            replay_of=job.replay_of,
            parent_id=job.parent_id,
            root_id=job.root_id,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            worker=job.worker,
            cancel_requested_at=job.cancel_requested_at,
            progress=ProgressView.of(job.progress),
            summary=None if job.summary is None else dict(job.summary),
            error=ErrorView.of(job.error),
            dead_reason=job.dead_reason,
            attempts=None if attempts is None else [AttemptView.of(attempt) for attempt in attempts],
            links=_links(job),
        )


def _links(job: Job) -> dict[str, str]:
    base = job_path(job.id)
    links = {"self": base, "page": f"/jobs/{quote(job.id, safe='')}"}
    links["events"] = f"/live?job_id={quote(job.id, safe='')}"
    if job.state.is_final:
        links["retry"] = f"{base}/retry"
    else:
        links["cancel"] = f"{base}/cancel"
    if job.state is JobState.SUCCEEDED:
        links["result"] = f"{base}/result"
    return links


def job_path(job_id: str) -> str:
    """Where the job is found."""
    return f"/api/v1/jobs/{quote(job_id, safe='')}"


def file_path(job_id: str, name: str) -> str:
    """Where a file that the job left is found."""
    return f"{job_path(job_id)}/files/{quote(name, safe='')}"


class JobList(BaseModel):
    """A page of jobs, newest first."""

    jobs: list[JobView]
    next_before: int | None = Field(description="Give it as `before` for the next page; None on the last.")


class DatasetView(BaseModel):
    """A file that jobs can read."""

    source: str = Field(description="What a request names it by.")
    name: str
    size_bytes: int
    uploaded_at: AwareDatetime


class DatasetList(BaseModel):
    """The uploads, newest first."""

    datasets: list[DatasetView]


class DeadLetterView(BaseModel):
    """Work that could not be done, kept with its reason."""

    id: int
    job_id: str | None
    kind: str | None
    queue: str
    reason: DeadReason
    message: str
    n_attempts: int
    created_at: AwareDatetime
    replayed_as: str | None
    discarded_at: AwareDatetime | None

    @classmethod
    def of(cls, letter: DeadLetter) -> Self:
        """The same, for JSON; the payload stays on the server."""
        return cls(
            id=letter.id,
            job_id=letter.job_id,
            kind=letter.kind,
            queue=letter.queue,
            reason=letter.reason,
            message=letter.message,
            n_attempts=letter.n_attempts,
            created_at=letter.created_at,
            replayed_as=letter.replayed_as,
            discarded_at=letter.discarded_at,
        )


class DeadLetterList(BaseModel):
    """A page of dead letters, newest first."""

    dead_letters: list[DeadLetterView]
    next_before: int | None
