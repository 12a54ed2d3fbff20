"""Jobs for tests of the store alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import func, select

from pynomaly_tasks.core.event import JOB_EVENTS, Event, OutboxEntry
from pynomaly_tasks.core.ids import new_id
from pynomaly_tasks.core.job import AttemptOutcome, Job, JobError, JobState, NewJob
from pynomaly_tasks.store.store import Store
from pynomaly_tasks.store.tables import outbox, results
from pynomaly_tasks.store.transitions import Settlement

T = TypeVar("T")

#: A lease that has run out as it is granted.
EXPIRED_S = -1.0
LEASE_S = 60.0
ERROR = JobError(type="Flaky", message="no luck")
SUCCESS = Settlement(state=JobState.SUCCEEDED, outcome=AttemptOutcome.SUCCEEDED, summary={"ok": True})
FAILURE = Settlement(state=JobState.FAILED, outcome=AttemptOutcome.FAILED, error=ERROR)


def new_job(**what: Any) -> NewJob:
    """A job that is due, unless told otherwise."""
    return NewJob(**{"id": new_id(), "kind": "act", "queue": "default", "request": {"n": 1}, **what})


def add(store: Store, **what: Any) -> Job:
    """Store one."""
    [(job, _)] = store.insert_jobs([new_job(**what)])
    return job


def start(store: Store, job: Job, worker: str = "w1", lease_s: float = LEASE_S) -> Job:
    """Claim it; fails unless that succeeds."""
    changed, claimed = store.claim(job.id, worker, lease_s)
    assert claimed, changed
    return changed.job


def retry_after(delay_s: float) -> Settlement:
    """A failure that is tried again."""
    return Settlement(
        state=JobState.WAITING, outcome=AttemptOutcome.FAILED, error=ERROR, retry_delay_s=delay_s
    )


def events_of(store: Store, job_id: str) -> list[str]:
    """Types of the job's events, in their order."""
    return [event.type for event in told_of(store, job_id)]


def told_of(store: Store, job_id: str) -> list[Event]:
    """The events of the job's state, in their order."""
    return [event for event in told(store, JOB_EVENTS) if event.data["job_id"] == job_id]


def told(store: Store, topic: str | None = None) -> list[Event]:
    """The events of one topic, or of all, in the order in which they were written."""
    entries = store.list_unsent(100_000)
    assert all(isinstance(entry, OutboxEntry) for entry in entries), entries
    events = [entry.event for entry in entries if isinstance(entry, OutboxEntry)]
    return [event for event in events if topic in (None, event.topic)]


def states_told_after(store: Store, number: int) -> list[tuple[int, str, JobState]]:
    """Of each later event of a job: its number, the job's id, and the state that it names."""
    with store._db.reading() as connection:
        query = (
            select(outbox.c.id, outbox.c.payload)
            .where(outbox.c.id > number, outbox.c.topic == JOB_EVENTS)
            .order_by(outbox.c.id)
        )
        return [
            (row.id, row.payload["job_id"], JobState(row.payload["state"]))
            for row in connection.execute(query)
        ]


def count_results(store: Store) -> int:
    """Rows of results, of all jobs."""
    with store._db.reading() as connection:
        return connection.execute(select(func.count()).select_from(results)).scalar_one()


def at_once(n_threads: int, call: Callable[[int], T]) -> list[T]:
    """Call from many threads at the same moment; their answers. Raises the first error."""
    answers: list[T] = []
    errors: list[BaseException] = []
    barrier = threading.Barrier(n_threads)

    def run(number: int) -> None:
        barrier.wait(30)
        try:
            answers.append(call(number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    if errors:
        raise errors[0]
    return answers
