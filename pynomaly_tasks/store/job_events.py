"""The events of a job, as rows of the outbox."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from pynomaly_tasks.core.audit_events import Actor, JobCancelRequested
from pynomaly_tasks.core.event_data import EventData
from pynomaly_tasks.core.job import Job, JobState, Json
from pynomaly_tasks.core.job_events import (
    Failure,
    JobCancelled,
    JobCompleted,
    JobDeadLettered,
    JobEvent,
    JobFailed,
    JobQueued,
    JobRetrying,
    JobStarted,
    JobSubmitted,
)
from pynomaly_tasks.core.redact import mask_url
from pynomaly_tasks.core.trace import is_traceparent, traceparent_of
from pynomaly_tasks.core.work_events import result_path
from pynomaly_tasks.store.outbox import event_row

#: A larger summary is told by its four usual values: an event must fit into any log of events.
MAX_SUMMARY_BYTES = 32 * 1024
_USUAL = ("job_id", "status", "anomalies_found", "processing_time")

Row = dict[str, Any]


def rows_of(job: Job, events: Iterable[EventData]) -> list[Row]:
    """In order after what was told of the job, or of an earlier job with its ordering key."""
    key, traceparent = job.ordering_key or job.id, _traceparent(job)
    return [event_row(event, key, traceparent) for event in events]


def submitted(job: Job) -> JobSubmitted:
    """The job was stored."""
    return JobSubmitted(
        **_about(job),
        run_at=job.run_at,
        priority=job.priority,
        owner=job.owner,
        ordering_key=job.ordering_key,
        replay_of=job.replay_of,
        parent_id=job.parent_id,
        root_id=job.root_id,
    )


def queued(jobs: Sequence[Job]) -> list[Row]:
    """Rows for jobs that waited and are due."""
    return [row for job in jobs for row in rows_of(job, [JobQueued(**_about(job))])]


def started(job: Job) -> JobStarted:
    """An attempt began."""
    return JobStarted(**_about(job), worker=job.worker or "")


def attempt_ended(job: Job, *, cancel_reason: str) -> JobEvent:
    """An attempt ended, and with it perhaps the job."""
    about = _about(job)
    if job.state is JobState.SUCCEEDED:
        return JobCompleted(
            **about, summary=_bounded(job.summary or {}), result=result_path(job.id), progress=job.progress
        )
    error = _failure(job)
    if job.state is JobState.FAILED:
        return JobFailed(**about, error=error, progress=job.progress)
    if job.state is JobState.CANCELLED:
        return JobCancelled(**about, reason=cancel_reason, progress=job.progress)
    if job.state is JobState.DEAD:
        return JobDeadLettered(
            **about,
            reason="" if job.dead_reason is None else job.dead_reason.value,
            error=error,
            progress=job.progress,
        )
    return JobRetrying(
        **about,
        error=error,
        retry_at=job.run_at,
        n_failed=job.n_failed,
        n_lost=job.n_lost,
        max_retries=job.retry.max_retries,
        progress=job.progress,
    )


def cancel_requested(job: Job, actor: Actor, state: JobState, reason: str) -> JobCancelRequested:
    """Somebody cancelled the job, which was in that state."""
    return JobCancelRequested(
        actor=actor.name, door=actor.door, address=actor.address, job_id=job.id, state=state, reason=reason
    )


def _about(job: Job) -> dict[str, Any]:
    dataset = job.request.get("dataset")
    return {
        "job_id": job.id,
        "kind": job.kind,
        "queue": job.queue,
        "state": job.state,
        "attempt": job.attempt,
        "tags": job.tags,
        "dataset": mask_url(dataset) if isinstance(dataset, str) else None,
    }


def _failure(job: Job) -> Failure | None:
    if job.error is None:
        return None
    message, dataset = job.error.message, job.request.get("dataset")
    if isinstance(dataset, str) and dataset:
        # Work code may repeat the address that it could not open.
        message = message.replace(dataset, mask_url(dataset))
    return Failure(type=job.error.type, message=message)


def _bounded(summary: Json) -> Json:
    if len(orjson.dumps(summary, option=orjson.OPT_SERIALIZE_NUMPY)) <= MAX_SUMMARY_BYTES:
        return summary
    return {name: summary.get(name) for name in _USUAL}


def _traceparent(job: Job) -> str:
    """What the caller sent along, or else one of the job's own."""
    headers = job.envelope.get("headers")
    given = headers.get("traceparent") if isinstance(headers, dict) else None
    if isinstance(given, str) and is_traceparent(given):
        return given
    return traceparent_of(job.root_id or job.id, job.id)
