"""The statements on every job's usual way, built once: building one takes longer than running it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Double, Integer, Update, bindparam, insert, or_, select, update

from pynomaly_tasks.core.job import ALLOWED, JobState
from pynomaly_tasks.store.clock import server_now
from pynomaly_tasks.store.promotion import is_first_of_its_key
from pynomaly_tasks.store.tables import attempts, jobs, outbox, results

#: Of ``the_job``.
LOCK = select(jobs).where(jobs.c.id == bindparam("the_job")).with_for_update()

#: Of ``the_job`` for ``the_worker``, leased for ``lease_s``: only if it may run now.
CLAIM = (
    update(jobs)
    .where(
        jobs.c.id == bindparam("the_job"),
        jobs.c.state == JobState.QUEUED,
        or_(jobs.c.deadline_at.is_(None), jobs.c.deadline_at > server_now()),
        is_first_of_its_key(),
    )
    .values(
        state=JobState.RUNNING,
        attempt=jobs.c.attempt + 1,
        worker=bindparam("the_worker"),
        lease_until_at=server_now() + bindparam("lease_s", type_=Double()),
        started_at=server_now(),
        progress_current=None,
        progress_total=None,
        progress_status=None,
    )
    .returning(jobs)
)

BEGIN_ATTEMPT = insert(attempts)
END_ATTEMPT = (
    update(attempts)
    .where(attempts.c.job_id == bindparam("the_job"), attempts.c.number == bindparam("the_attempt"))
    .values(finished_at=server_now())
)
ADD_RESULT = insert(results).values(created_at=server_now())
ADD_EVENTS = insert(outbox).values(created_at=server_now())
#: Without asking for the row's number, which nobody needs.
ADD_EVENT = ADD_EVENTS.inline()


def _end(state: JobState) -> Update:
    ours: list[ColumnElement[bool]] = [
        jobs.c.id == bindparam("the_job"),
        jobs.c.attempt == bindparam("the_attempt"),
        jobs.c.state == JobState.RUNNING,
    ]
    if state is not JobState.CANCELLED:
        ours.append(jobs.c.cancel_requested_at.is_(None))
    changes: dict[str, Any] = {}
    if state.is_final:
        changes["finished_at"] = server_now()
    if state is JobState.WAITING:
        changes["run_at"] = server_now() + bindparam("retry_delay_s", type_=Double())
    elif state is JobState.QUEUED:
        changes["published_at"] = server_now()
    elif state is JobState.SUCCEEDED:
        # Progress is written now and then; an ended job shows the end.
        changes["progress_current"] = jobs.c.progress_total
    return (
        update(jobs)
        .where(*ours)
        .values(
            state=state,
            lease_until_at=None,
            n_failed=jobs.c.n_failed + bindparam("failed", type_=Integer()),
            n_lost=jobs.c.n_lost + bindparam("lost", type_=Integer()),
            **changes,
        )
        .returning(jobs)
    )


#: How a running job becomes each state that it may: compare-and-set on ``the_job``, ``the_attempt``, and
#: that nobody asked to cancel it, unless it ends cancelled.
END = {state: _end(state) for state in ALLOWED[JobState.RUNNING]}
