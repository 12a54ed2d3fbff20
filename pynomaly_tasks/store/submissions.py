"""New jobs: stored once, however often they are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from pynomaly_tasks.core.job import Job, JobState, NewJob
from pynomaly_tasks.errors import IdempotencyMismatch, InvalidRequest
from pynomaly_tasks.store import job_events
from pynomaly_tasks.store.clock import server_now
from pynomaly_tasks.store.database import Database
from pynomaly_tasks.store.outbox import write_events
from pynomaly_tasks.store.promotion import promote
from pynomaly_tasks.store.rows import job_from_row
from pynomaly_tasks.store.tables import jobs

# SQLite allows 32,766 bound values a statement.
_IDS_PER_QUERY = 5_000
_NOW = select(func.cast(server_now(), jobs.c.backoff_s.type))
_INSERT = {
    "sqlite": sqlite.insert(jobs).on_conflict_do_nothing().returning(jobs),
    "postgresql": postgresql.insert(jobs).on_conflict_do_nothing().returning(jobs),
}
#: Of jobs that may run at once: no need to ask what time it is first.
_INSERT_DUE = {
    dialect: insert.values(run_at=server_now(), created_at=server_now(), published_at=server_now())
    for dialect, insert in _INSERT.items()
}
_DUE = {"state": JobState.QUEUED}


class Submissions:
    """Inserts jobs."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def insert_jobs(self, new_jobs: Sequence[NewJob]) -> list[tuple[Job, bool]]:
        """Store the jobs in one transaction, in the given order; True beside those that are new.

        A job whose id or idempotency key is taken is answered with the job that exists. Raises
        IdempotencyMismatch when that one has another kind or request; then nothing is stored.
        """
        with self._db.writing() as connection:
            self._lock_ordering_keys(connection, new_jobs)
            dialect = self._db.url.get_backend_name()
            if all(_is_due_at_once(job) for job in new_jobs):
                insert, rows = _INSERT_DUE[dialect], [_row(job, _DUE) for job in new_jobs]
            else:
                now: float = connection.execute(_NOW).scalar_one()
                insert, rows = _INSERT[dialect], [_row(job, _schedule(job, now)) for job in new_jobs]
            # SQLAlchemy takes a longer way for a list, even of one.
            inserted = connection.execute(insert, rows[0] if len(rows) == 1 else rows)
            created = {row.id: job_from_row(row) for row in inserted}
            ordered = any(job.ordering_key for job in new_jobs)
            promoted: list[Job] = []
            if ordered:
                promoted = promote(connection, only_ids=[job.id for job in new_jobs if job.ordering_key])
            self._tell(connection, new_jobs, created, promoted)
            # Read again only what may differ from what was written: usually nothing does.
            unchanged = len(created) == len(new_jobs) and not ordered
            stored = created if unchanged else self._stored(connection, new_jobs)
        return [(stored[job.id], job.id in created) for job in new_jobs]

    @staticmethod
    def _tell(
        connection: Connection,
        new_jobs: Sequence[NewJob],
        created: Mapping[str, Job],
        promoted: Sequence[Job],
    ) -> None:
        # A job that is queued as it is stored says so at once: there is no second event.
        as_it_stands = {**created, **{job.id: job for job in promoted if job.id in created}}
        rows = []
        for new in new_jobs:
            if new.id in as_it_stands:
                job = as_it_stands[new.id]
                rows += job_events.rows_of(job, [job_events.submitted(job), *new.events])
        rows += job_events.queued([job for job in promoted if job.id not in created])
        write_events(connection, rows)

    def _lock_ordering_keys(self, connection: Connection, new_jobs: Sequence[NewJob]) -> None:
        # PostgreSQL gives out sequence numbers before commit: without the lock a later job of a
        # key may be seen, and run, before an earlier one. Sorted, so that two submits of the
        # same keys cannot wait for one another. SQLite has one writer at a time anyway.
        if self._db.is_sqlite:
            return
        for key in sorted({job.ordering_key for job in new_jobs if job.ordering_key}):
            connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(key, 0))))

    @staticmethod
    def _stored(connection: Connection, new_jobs: Sequence[NewJob]) -> dict[str, Job]:
        by_id: dict[str, Job] = {}
        by_key: dict[str, Job] = {}
        for start in range(0, len(new_jobs), _IDS_PER_QUERY):
            part = new_jobs[start : start + _IDS_PER_QUERY]
            keys = [job.idempotency_key for job in part if job.idempotency_key]
            condition: ColumnElement[bool] = jobs.c.id.in_([job.id for job in part])
            if keys:
                condition = or_(condition, jobs.c.idempotency_key.in_(keys))
            for row in connection.execute(select(jobs).where(condition)):
                job = job_from_row(row)
                by_id[job.id] = job
                if job.idempotency_key:
                    by_key[job.idempotency_key] = job
        stored: dict[str, Job] = {}
        for new in new_jobs:
            job = by_id[new.id] if new.id in by_id else by_key[new.idempotency_key or ""]
            if new.idempotency_key and (job.kind != new.kind or dict(job.request) != dict(new.request)):
                raise IdempotencyMismatch(
                    f"idempotency_key {new.idempotency_key!r} belongs to job {job.id} ({job.kind}) with another "
                    "request: send the same request again, or use another key"
                )
            stored[new.id] = job
        return stored


def _is_due_at_once(job: NewJob) -> bool:
    return not (job.delay_s or job.run_at or job.deadline_at or job.ordering_key)


def _schedule(job: NewJob, now: float) -> dict[str, Any]:
    run_at = now + (job.delay_s or 0.0) if job.run_at is None else job.run_at.timestamp()
    if job.deadline_at is not None and job.deadline_at.timestamp() <= max(now, run_at):
        raise InvalidRequest.of(
            "deadline_at", "must be later than now and than run_at, or the job could never start"
        )
    # Jobs with an ordering key wait until `promote` finds that nothing is before them.
    due = run_at <= now and job.ordering_key is None
    return {
        "state": JobState.QUEUED if due else JobState.WAITING,
        "run_at": run_at,
        "created_at": now,
        "published_at": now if due else None,
    }


def _row(job: NewJob, schedule: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": job.id,
        "kind": job.kind,
        "queue": job.queue,
        "request": job.request,
        "priority": job.priority,
        "attempt": 0,
        "n_failed": 0,
        "n_lost": 0,
        "max_retries": job.retry.max_retries,
        "backoff_s": job.retry.backoff_s,
        "backoff_max_s": job.retry.backoff_max_s,
        "jitter": job.retry.jitter,
        "time_limit_s": job.time_limit_s,
        "deadline_at": job.deadline_at,
        "idempotency_key": job.idempotency_key,
        "ordering_key": job.ordering_key,
        "tags": list(job.tags),
        "owner": job.owner,
        "replay_of": job.replay_of,
        "parent_id": job.parent_id,
        "root_id": job.root_id,
        "envelope": job.envelope,
        "cancel_reason": "",
        "report_due": False,
        **schedule,
    }
