"""The arrows between job states, each a compare-and-set on the server's clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Connection, Row, insert, select, update

from pynomaly_tasks.core.audit_events import SOMEBODY, Actor
from pynomaly_tasks.core.event_data import EventData
from pynomaly_tasks.core.job import (
    ALLOWED,
    AttemptOutcome,
    DeadReason,
    Job,
    JobError,
    JobState,
    Json,
    Progress,
)
from pynomaly_tasks.errors import Conflict, JobAlreadyFinal, NotFound, StaleAttempt
from pynomaly_tasks.store import job_events, statements
from pynomaly_tasks.store.clock import server_now
from pynomaly_tasks.store.database import Database
from pynomaly_tasks.store.job_events import rows_of
from pynomaly_tasks.store.outbox import write_events
from pynomaly_tasks.store.promotion import promote
from pynomaly_tasks.store.rows import job_from_row
from pynomaly_tasks.store.tables import dead_letters, jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """How an attempt ended, and what becomes of its job."""

    state: JobState
    outcome: AttemptOutcome
    error: JobError | None = None
    retry_delay_s: float = 0.0  #: for WAITING
    dead_reason: DeadReason | None = None  #: for DEAD
    summary: Json | None = None  #: for SUCCEEDED
    detail: Json = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    events: Sequence[EventData] = ()  #: told with the end, unless it is refused or cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A job after its change of state, and the jobs that the change let into their queue."""

    job: Job
    queued: Sequence[Job] = ()


class Transitions:
    """Changes the state of jobs."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def claim(self, job_id: str, worker: str, lease_s: float) -> tuple[Changed, bool]:
        """Start the next attempt and lease it to ``worker``; False when the job may not run now.

        Raises NotFound.
        """
        with self._db.writing() as connection:
            row = connection.execute(
                statements.CLAIM, {"the_job": job_id, "the_worker": worker, "lease_s": lease_s}
            ).one_or_none()
            if row is None:
                return self._refuse_claim(connection, job_id), False
            connection.execute(
                statements.BEGIN_ATTEMPT,
                {
                    "job_id": job_id,
                    "number": row.attempt,
                    "worker": worker,
                    "outcome": AttemptOutcome.RUNNING,
                    "started_at": row.started_at,
                },
            )
            job = job_from_row(row)
            write_events(connection, rows_of(job, [job_events.started(job)]))
            return Changed(job=job), True

    def _refuse_claim(self, connection: Connection, job_id: str) -> Changed:
        row = _locked(connection, job_id)
        if row.state == JobState.QUEUED:
            now = connection.execute(select(server_now())).scalar_one()
            if row.deadline_at is not None and row.deadline_at <= now:
                return self._bury(connection, row, DeadReason.DEADLINE_PASSED)
            # An earlier job with its ordering key is open: wait for it. Its end promotes this one.
            return Changed(job=_move(connection, row, JobState.WAITING))
        return Changed(job=job_from_row(row))

    def renew(self, worker: str, job_ids: Collection[str], lease_s: float) -> None:
        """Lengthen the leases of these jobs, as far as ``worker`` still holds them."""
        with self._db.writing_once() as connection:
            connection.execute(
                update(jobs)
                .where(jobs.c.worker == worker, jobs.c.state == JobState.RUNNING, jobs.c.id.in_(job_ids))
                .values(lease_until_at=server_now() + lease_s)
            )

    def record_progress(self, job_id: str, attempt: int, progress: Progress) -> bool:
        """Keep the progress; True when somebody asked to cancel. Raises StaleAttempt."""
        with self._db.writing_once() as connection:
            row = connection.execute(
                update(jobs)
                .where(jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.state == JobState.RUNNING)
                .values(
                    progress_current=progress.current,
                    progress_total=progress.total,
                    progress_status=progress.status,
                )
                .returning(jobs.c.cancel_requested_at)
            ).one_or_none()
        if row is None:
            raise _stale(job_id, attempt)
        return row.cancel_requested_at is not None

    def settle(self, job_id: str, attempt: int, settlement: Settlement) -> Changed:
        """End an attempt: state, result, events and dead letter in one transaction.

        A job that was cancelled meanwhile ends cancelled, whatever the attempt found. Raises
        StaleAttempt when a newer attempt owns the job or it has ended; then nothing is written.
        """
        with self._db.writing() as connection:
            changed = self._settle(connection, job_id, attempt, settlement)
            if changed is None:
                row = _locked(connection, job_id)
                if row.attempt != attempt or row.state != JobState.RUNNING:
                    raise _stale(job_id, attempt)
                # Somebody asked to cancel it.
                settlement = Settlement(
                    state=JobState.CANCELLED, outcome=AttemptOutcome.CANCELLED, error=settlement.error
                )
                changed = self._settle(connection, job_id, attempt, settlement)
                assert changed is not None
            if changed.job.state.is_final and _has_continuation(changed.job.envelope):
                connection.execute(update(jobs).where(jobs.c.id == job_id).values(report_due=True))
            return changed

    def lose(self, job_id: str, worker: str, error: JobError, max_lost: int) -> Changed | None:
        """End the attempt whose process died under ``worker``; None when it holds the job no more."""
        with self._db.writing() as connection:
            row = _locked(connection, job_id)
            if row.worker != worker or row.state != JobState.RUNNING:
                return None
            return self._lose(connection, row, error, max_lost)

    def lose_expired(self, max_lost: int, limit: int) -> list[Changed]:
        """End every attempt whose lease ran out; its job is queued again, or buried."""
        with self._db.writing() as connection:
            rows = connection.execute(
                select(jobs)
                .where(jobs.c.state == JobState.RUNNING, jobs.c.lease_until_at < server_now())
                .order_by(jobs.c.lease_until_at)
                .limit(limit)
                .with_for_update(skip_locked=True)
            ).all()
            error = JobError(type="LeaseExpired", message="its worker was not heard of for a whole lease")
            return [self._lose(connection, row, error, max_lost) for row in rows]

    def bury_overdue(self, limit: int) -> list[Changed]:
        """Jobs that did not start by their deadline go to the dead letters."""
        with self._db.writing() as connection:
            rows = connection.execute(
                select(jobs)
                .where(
                    jobs.c.state.in_([JobState.WAITING, JobState.QUEUED]),
                    jobs.c.deadline_at.is_not(None),
                    jobs.c.deadline_at <= server_now(),
                )
                .limit(limit)
                .with_for_update(skip_locked=True)
            ).all()
            return [self._bury(connection, row, DeadReason.DEADLINE_PASSED) for row in rows]

    def bury(self, job_id: str, reason: DeadReason, message: str) -> Changed:
        """Put a job that does not run into the dead letters. Raises NotFound, JobAlreadyFinal, Conflict."""
        with self._db.writing() as connection:
            row = _locked(connection, job_id)
            if row.state == JobState.RUNNING:
                raise Conflict(f"job {job_id} is running; its attempt decides how it ends")
            return self._bury(connection, row, reason, message)

    def promote_due(self, limit: int) -> list[Job]:
        """Queue the waiting jobs that are due; the caller publishes them."""
        with self._db.writing() as connection:
            promoted = promote(connection, limit=limit)
            write_events(connection, job_events.queued(promoted))
            return promoted

    def cancel(self, job_id: str, reason: str, actor: Actor = SOMEBODY) -> Changed:
        """Cancel at once what does not run; ask what runs to stop. Raises NotFound, JobAlreadyFinal."""
        with self._db.writing() as connection:
            row = _locked(connection, job_id)
            state = JobState(row.state)
            if state.is_final:
                raise JobAlreadyFinal(f"job {job_id} has ended ({state}); nothing is left to cancel")
            if state is JobState.RUNNING:
                changed = connection.execute(
                    update(jobs)
                    .where(jobs.c.seq == row.seq, jobs.c.cancel_requested_at.is_(None))
                    .values(cancel_requested_at=server_now(), cancel_reason=reason)
                    .returning(jobs)
                ).one_or_none()
                job = job_from_row(changed if changed is not None else row)
                if changed is not None:
                    told = job_events.cancel_requested(job, actor, state, reason)
                    write_events(connection, rows_of(job, [told]))
                return Changed(job=job)
            job = _move(
                connection, row, JobState.CANCELLED, cancel_requested_at=server_now(), cancel_reason=reason
            )
            told = job_events.cancel_requested(job, actor, state, reason)
            ended = job_events.attempt_ended(job, cancel_reason=reason)
            write_events(connection, rows_of(job, [told, ended]))
            return Changed(job=job, queued=_next_of_its_key(connection, job))

    def _settle(
        self,
        connection: Connection,
        job_id: str,
        attempt: int,
        settlement: Settlement,
        *,
        report_due: bool = False,
    ) -> Changed | None:
        """End the attempt; None when it does not own its job, or somebody asked to cancel that."""
        error = settlement.error
        what_failed = {"error_type": error and error.type, "error_message": error and error.message}
        this = {"the_job": job_id, "the_attempt": attempt}
        changes: dict[str, Any] = {
            **this,
            **what_failed,
            "failed": int(settlement.outcome is AttemptOutcome.FAILED),
            "lost": int(settlement.outcome is AttemptOutcome.LOST),
            "dead_reason": settlement.dead_reason,
            "report_due": settlement.state.is_final and report_due,
        }
        if settlement.state is JobState.WAITING:
            changes["retry_delay_s"] = settlement.retry_delay_s
        elif settlement.state is JobState.SUCCEEDED:
            changes["summary"] = settlement.summary
        row = connection.execute(statements.END[settlement.state], changes).one_or_none()
        if row is None:
            return None
        job = job_from_row(row)
        connection.execute(
            statements.END_ATTEMPT,
            {**this, **what_failed, "outcome": settlement.outcome, "traceback": error and error.traceback},
        )
        if job.state is JobState.SUCCEEDED:
            connection.execute(
                statements.ADD_RESULT,
                {
                    "job_id": job_id,
                    "attempt": attempt,
                    "summary": settlement.summary,
                    "detail": settlement.detail,
                    "artifacts": settlement.artifacts,
                },
            )
        elif job.state is JobState.DEAD:
            _add_dead_letter(connection, job, error.message if error else "")
        ended = job_events.attempt_ended(job, cancel_reason=row.cancel_reason)
        write_events(connection, rows_of(job, [*settlement.events, ended]))
        return Changed(job=job, queued=_next_of_its_key(connection, job))

    def _lose(self, connection: Connection, row: Row[Any], error: JobError, max_lost: int) -> Changed:
        reason = None
        if row.cancel_requested_at is not None:
            state, outcome = JobState.CANCELLED, AttemptOutcome.CANCELLED
        elif row.n_lost + 1 >= max_lost:
            state, outcome, reason = JobState.DEAD, AttemptOutcome.LOST, DeadReason.WORKER_KILLED
        else:
            state, outcome = JobState.QUEUED, AttemptOutcome.LOST
        settlement = Settlement(state=state, outcome=outcome, error=error, dead_reason=reason)
        changed = self._settle(connection, row.id, row.attempt, settlement, report_due=True)
        assert changed is not None  # the row is locked
        if state is JobState.QUEUED:
            return Changed(job=changed.job, queued=(changed.job,))
        return changed

    @staticmethod
    def _bury(connection: Connection, row: Row[Any], reason: DeadReason, message: str = "") -> Changed:
        message = message or f"not started by its deadline, {row.deadline_at}"
        job = _move(
            connection,
            row,
            JobState.DEAD,
            dead_reason=reason,
            error_type=reason.value,
            error_message=message,
        )
        _add_dead_letter(connection, job, message)
        write_events(connection, rows_of(job, [job_events.attempt_ended(job, cancel_reason="")]))
        return Changed(job=job, queued=_next_of_its_key(connection, job))


def _locked(connection: Connection, job_id: str) -> Row[Any]:
    row = connection.execute(statements.LOCK, {"the_job": job_id}).one_or_none()
    if row is None:
        raise NotFound(f"there is no job {job_id}")
    return row


def _move(connection: Connection, row: Row[Any], state: JobState, **changes: Any) -> Job:
    """Follow one arrow. The row is locked, and still compared: no arrow leaves a state it may not."""
    if state not in ALLOWED[JobState(row.state)]:
        raise JobAlreadyFinal(f"job {row.id} is {row.state}; it cannot become {state}")
    if state.is_final:
        changes["finished_at"] = server_now()
        changes.setdefault("report_due", True)
    moved = connection.execute(
        update(jobs)
        .where(jobs.c.seq == row.seq, jobs.c.state == row.state, jobs.c.attempt == row.attempt)
        .values(state=state, **changes)
        .returning(jobs)
    ).one()
    return job_from_row(moved)


def _next_of_its_key(connection: Connection, job: Job) -> list[Job]:
    if job.ordering_key is None or not job.state.is_final:
        return []
    promoted = promote(connection, ordering_key=job.ordering_key, limit=1)
    write_events(connection, job_events.queued(promoted))
    return promoted


def _add_dead_letter(connection: Connection, job: Job, message: str) -> None:
    assert job.dead_reason is not None
    connection.execute(
        insert(dead_letters).values(
            job_id=job.id,
            kind=job.kind,
            queue=job.queue,
            reason=job.dead_reason,
            message=message,
            payload=orjson.dumps(job.request),
            n_attempts=job.attempt,
            created_at=server_now(),
        )
    )


def _has_continuation(envelope: Json) -> bool:
    """Whether Celery calls something when the job has ended."""
    return any(envelope.get(name) for name in ("chain", "link", "link_error", "chord"))


def _stale(job_id: str, attempt: int) -> StaleAttempt:
    return StaleAttempt(f"attempt {attempt} of job {job_id} no longer owns it; its outcome is refused")
