"""Waiting jobs become queued when they are due and nothing with their ordering key is before them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, FromClause, exists, or_, select, update

from pynomaly_tasks.core.job import FINAL_STATES, Job, JobState
from pynomaly_tasks.store.clock import server_now
from pynomaly_tasks.store.rows import job_from_row
from pynomaly_tasks.store.tables import jobs

OPEN_STATES = tuple(sorted(set(JobState) - FINAL_STATES))


def is_first_of_its_key(table: FromClause = jobs) -> ColumnElement[bool]:
    """No job with the same ordering key was submitted earlier and is still open."""
    earlier = jobs.alias("earlier")
    return or_(
        table.c.ordering_key.is_(None),
        ~exists(
            select(earlier.c.seq).where(
                earlier.c.ordering_key == table.c.ordering_key,
                earlier.c.seq < table.c.seq,
                earlier.c.state.in_(OPEN_STATES),
            )
        ),
    )


def promote(
    connection: Connection,
    *,
    limit: int | None = None,
    only_ids: Sequence[str] | None = None,
    ordering_key: str | None = None,
) -> list[Job]:
    """Queue the waiting jobs that are due, highest priority first; the caller publishes them."""
    due = (
        select(jobs.c.seq)
        .where(jobs.c.state == JobState.WAITING, jobs.c.run_at <= server_now(), is_first_of_its_key())
        .order_by(jobs.c.priority.desc(), jobs.c.seq)
        .with_for_update(skip_locked=True, of=jobs)
    )
    if limit is not None:
        due = due.limit(limit)
    if only_ids is not None:
        due = due.where(jobs.c.id.in_(only_ids))
    if ordering_key is not None:
        due = due.where(jobs.c.ordering_key == ordering_key)
    seqs = list(connection.execute(due).scalars())
    if not seqs:
        return []
    rows = connection.execute(
        update(jobs)
        .where(jobs.c.seq.in_(seqs), jobs.c.state == JobState.WAITING)
        .values(state=JobState.QUEUED, published_at=server_now())
        .returning(jobs)
    )
    return sorted((job_from_row(row) for row in rows), key=lambda job: (-job.priority, job.seq))
