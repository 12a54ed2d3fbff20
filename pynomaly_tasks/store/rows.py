"""From rows to values."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from pynomaly_tasks.core.job import (
    Attempt,
    AttemptOutcome,
    DeadLetter,
    DeadReason,
    Job,
    JobError,
    JobResult,
    JobState,
    Progress,
)
from pynomaly_tasks.core.retry import RetryPolicy


def job_from_row(row: Row[Any]) -> Job:
    """A row of ``jobs``."""
    progress = None
    if row.progress_current is not None:
        progress = Progress(
            current=row.progress_current, total=row.progress_total, status=row.progress_status
        )
    return Job(
        id=row.id,
        seq=row.seq,
        kind=row.kind,
        queue=row.queue,
        state=JobState(row.state),
        request=row.request,
        priority=row.priority,
        attempt=row.attempt,
        n_failed=row.n_failed,
        n_lost=row.n_lost,
        retry=RetryPolicy(
            max_retries=row.max_retries,
            backoff_s=row.backoff_s,
            backoff_max_s=row.backoff_max_s,
            jitter=row.jitter,
        ),
        time_limit_s=row.time_limit_s,
        run_at=row.run_at,
        deadline_at=row.deadline_at,
        idempotency_key=row.idempotency_key,
        ordering_key=row.ordering_key,
        tags=tuple(row.tags),
        owner=row.owner,
        replay_of=row.replay_of,
        parent_id=row.parent_id,
        root_id=row.root_id,
        envelope=row.envelope,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        lease_until_at=row.lease_until_at,
        worker=row.worker,
        cancel_requested_at=row.cancel_requested_at,
        progress=progress,
        summary=row.summary,
        error=_error(row),
        dead_reason=DeadReason(row.dead_reason) if row.dead_reason else None,
    )


def attempt_from_row(row: Row[Any]) -> Attempt:
    """A row of ``attempts``."""
    return Attempt(
        job_id=row.job_id,
        number=row.number,
        worker=row.worker,
        outcome=AttemptOutcome(row.outcome),
        started_at=row.started_at,
        finished_at=row.finished_at,
        error=_error(row, row.traceback or ""),
    )


def result_from_row(row: Row[Any]) -> JobResult:
    """A row of ``results``."""
    return JobResult(
        job_id=row.job_id,
        attempt=row.attempt,
        summary=row.summary,
        detail=row.detail,
        artifacts=row.artifacts,
        created_at=row.created_at,
    )


def dead_letter_from_row(row: Row[Any]) -> DeadLetter:
    """A row of ``dead_letters``."""
    return DeadLetter(
        id=row.id,
        job_id=row.job_id,
        kind=row.kind,
        queue=row.queue,
        reason=DeadReason(row.reason),
        message=row.message,
        payload=row.payload,
        n_attempts=row.n_attempts,
        created_at=row.created_at,
        replayed_as=row.replayed_as,
        discarded_at=row.discarded_at,
    )


def _error(row: Row[Any], traceback: str = "") -> JobError | None:
    if row.error_type is None:
        return None
    return JobError(type=row.error_type, message=row.error_message, traceback=traceback)
