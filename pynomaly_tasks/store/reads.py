"""Looking at jobs, their attempts and results."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, exists, func, or_, select, type_coerce, update
from sqlalchemy.dialects.postgresql import JSONB

from pynomaly_tasks.core.job import Attempt, DeadReason, Job, JobResult, JobState
from pynomaly_tasks.errors import NotFound
from pynomaly_tasks.store.clock import server_now
from pynomaly_tasks.store.database import Database
from pynomaly_tasks.store.rows import attempt_from_row, job_from_row, result_from_row
from pynomaly_tasks.store.tables import attempts, dead_letters, jobs, results

# SQLite allows 32,766 bound values a statement.
_IDS_PER_QUERY = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs are meant; None means any."""

    states: Collection[JobState] | None = None
    kind: str | None = None
    queue: str | None = None
    tag: str | None = None
    owner: str | None = None
    dead_reason: DeadReason | None = None
    is_settled: bool | None = None  #: replayed as another job, or discarded
    created_before_at: datetime | None = None
    created_after_at: datetime | None = None


class Reads:
    """Reads jobs; changes nothing but the note of when a job was last published."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def find_job(self, job_id: str) -> Job | None:
        """The job, or None."""
        with self._db.reading() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
        return None if row is None else job_from_row(row)

    def get_job(self, job_id: str) -> Job:
        """The job. Raises NotFound."""
        job = self.find_job(job_id)
        if job is None:
            raise NotFound(f"there is no job {job_id}")
        return job

    def list_jobs(
        self,
        states: Collection[JobState] | None = None,
        kind: str | None = None,
        tag: str | None = None,
        owner: str | None = None,
        before_seq: int | None = None,
        limit: int = 50,
    ) -> list[Job]:
        """Newest first; ``before_seq`` of the last one seen gives the next page."""
        return self.select_jobs(
            JobFilter(states=states, kind=kind, tag=tag, owner=owner), before_seq=before_seq, limit=limit
        )

    def select_jobs(self, which: JobFilter, before_seq: int | None = None, limit: int = 50) -> list[Job]:
        """The jobs that pass the filter, newest first."""
        query = select(jobs).where(*self._conditions(which)).order_by(jobs.c.seq.desc()).limit(limit)
        if before_seq is not None:
            query = query.where(jobs.c.seq < before_seq)
        with self._db.reading() as connection:
            return [job_from_row(row) for row in connection.execute(query)]

    def count_jobs(self, which: JobFilter) -> int:
        """How many jobs pass the filter."""
        with self._db.reading() as connection:
            query = select(func.count()).select_from(jobs).where(*self._conditions(which))
            return connection.execute(query).scalar_one()

    def count_by_state(self) -> dict[tuple[str, JobState], int]:
        """How many jobs each queue has in each state."""
        query = select(jobs.c.queue, jobs.c.state, func.count()).group_by(jobs.c.queue, jobs.c.state)
        with self._db.reading() as connection:
            return {(queue, JobState(state)): n for queue, state, n in connection.execute(query)}

    def list_attempts(self, job_id: str) -> list[Attempt]:
        """Every try of the job, first to last."""
        query = select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.number)
        with self._db.reading() as connection:
            return [attempt_from_row(row) for row in connection.execute(query)]

    def get_result(self, job_id: str) -> JobResult:
        """What the job left. Raises NotFound unless it succeeded."""
        with self._db.reading() as connection:
            row = connection.execute(select(results).where(results.c.job_id == job_id)).one_or_none()
        if row is None:
            raise NotFound(f"job {job_id} has no result: it does not exist or has not succeeded")
        return result_from_row(row)

    def find_cancelled(self, worker: str) -> list[str]:
        """Ids of the jobs that ``worker`` runs and somebody asked to cancel."""
        query = select(jobs.c.id).where(
            jobs.c.state == JobState.RUNNING,
            jobs.c.worker == worker,
            jobs.c.cancel_requested_at.is_not(None),
        )
        with self._db.reading() as connection:
            return list(connection.execute(query).scalars())

    def check_attempt(self, job_id: str, attempt: int) -> tuple[bool, bool]:
        """Whether the attempt still owns its job, and whether somebody asked to cancel it."""
        query = select(jobs.c.attempt, jobs.c.state, jobs.c.cancel_requested_at).where(jobs.c.id == job_id)
        with self._db.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return False, False
        owns = row.attempt == attempt and row.state == JobState.RUNNING
        return owns, row.cancel_requested_at is not None

    def has_due_jobs(self) -> bool:
        """Whether a waiting job's time has come; it may still be behind its ordering key."""
        query = select(jobs.c.seq).where(jobs.c.state == JobState.WAITING, jobs.c.run_at <= server_now())
        with self._db.reading() as connection:
            return connection.execute(query.limit(1)).one_or_none() is not None

    def take_published_before(self, age_s: float, limit: int) -> list[Job]:
        """Queued jobs whose message was sent at least that long ago and is not taken yet.

        Each is given to one caller, who looks for its message: it counts as published now.
        """
        suspects = (
            select(jobs.c.seq)
            .where(jobs.c.state == JobState.QUEUED, jobs.c.published_at <= server_now() - age_s)
            .order_by(jobs.c.published_at)
            .limit(limit)
        )
        with self._db.reading() as connection:  # nearly always none: no write, no lock
            if connection.execute(suspects.limit(1)).one_or_none() is None:
                return []
        with self._db.writing() as connection:
            seqs = list(connection.execute(suspects.with_for_update(skip_locked=True)).scalars())
            rows = connection.execute(
                update(jobs)
                .where(jobs.c.seq.in_(seqs), jobs.c.state == JobState.QUEUED)
                .values(published_at=server_now())
                .returning(jobs)
            )
            return sorted((job_from_row(row) for row in rows), key=lambda job: job.seq)

    def mark_unpublished(self, job_ids: Sequence[str]) -> None:
        """Note that the jobs' messages could not be sent: the next rescue sends them."""
        with self._db.writing() as connection:
            for start in range(0, len(job_ids), _IDS_PER_QUERY):
                part = job_ids[start : start + _IDS_PER_QUERY]
                connection.execute(
                    update(jobs)
                    .where(jobs.c.id.in_(part), jobs.c.state == JobState.QUEUED)
                    .values(published_at=0.0)
                )

    def mark_published(self, job_ids: Sequence[str]) -> None:
        """Note that the jobs' messages were sent, or seen in their queue, just now."""
        with self._db.writing_once() as connection:
            connection.execute(update(jobs).where(jobs.c.id.in_(job_ids)).values(published_at=server_now()))

    def list_unreported(self, age_s: float, limit: int) -> list[Job]:
        """Jobs that ended at least that long ago without Celery having been told."""
        long_ago = server_now() - age_s
        query = (
            select(jobs)
            .where(
                jobs.c.report_due,
                jobs.c.finished_at <= long_ago,
                or_(jobs.c.published_at.is_(None), jobs.c.published_at <= long_ago),
            )
            .order_by(jobs.c.finished_at)
            .limit(limit)
        )
        with self._db.reading() as connection:
            return [job_from_row(row) for row in connection.execute(query)]

    def mark_reported(self, job_id: str) -> None:
        """Note that Celery knows of the job's end."""
        with self._db.writing_once() as connection:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(report_due=False))

    def _conditions(self, which: JobFilter) -> list[ColumnElement[bool]]:
        conditions: list[ColumnElement[bool]] = []
        if which.states is not None:
            conditions.append(jobs.c.state.in_(list(which.states)))
        if which.kind is not None:
            conditions.append(jobs.c.kind == which.kind)
        if which.queue is not None:
            conditions.append(jobs.c.queue == which.queue)
        if which.owner is not None:
            conditions.append(jobs.c.owner == which.owner)
        if which.dead_reason is not None:
            conditions.append(jobs.c.dead_reason == which.dead_reason)
        if which.created_before_at is not None:
            conditions.append(jobs.c.created_at < which.created_before_at)
        if which.created_after_at is not None:
            conditions.append(jobs.c.created_at >= which.created_after_at)
        if which.is_settled is not None:
            conditions.append(_is_settled() if which.is_settled else ~_is_settled())
        if which.tag is not None:
            conditions.append(self._has_tag(which.tag))
        return conditions

    def _has_tag(self, tag: str) -> ColumnElement[bool]:
        if self._db.is_sqlite:
            each: Any = func.json_each(jobs.c.tags).table_valued("value")
            return select(1).select_from(each).where(each.c.value == tag).correlate(jobs).exists()
        # Said to be JSONB: of a column with variants SQLAlchemy takes the first one's operators, here LIKE.
        return type_coerce(jobs.c.tags, JSONB()).contains([tag])


def _is_settled() -> ColumnElement[bool]:
    later = jobs.alias("later")
    replayed = exists().where(later.c.replay_of == jobs.c.id)
    discarded = exists().where(dead_letters.c.job_id == jobs.c.id, dead_letters.c.discarded_at.is_not(None))
    return or_(replayed, discarded)
