"""What keeps the promises when processes die: expired leases, lost messages, due and overdue jobs."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pynomaly_tasks.core.job import Job, JobState
from pynomaly_tasks.errors import BrokerUnavailable, StoreUnavailable
from pynomaly_tasks.jobs.ports import Queue, Updates
from pynomaly_tasks.jobs.submit import Submitter
from pynomaly_tasks.store.reads import JobFilter
from pynomaly_tasks.store.store import Store
from pynomaly_tasks.store.transitions import Changed

log = logging.getLogger(__name__)

#: Rows a pass takes at once, so that no transaction is long; the next pass takes the rest.
BATCH = 500

#: Telling which messages are missing takes a read of their whole queue, seconds of it when that holds
#: 100,000: at most this share of the time is spent so. Jobs whose publish failed come first.
READ_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescued:
    """What one pass did."""

    n_lost_attempts: int = 0
    n_republished: int = 0
    n_overdue: int = 0
    n_reported: int = 0


class Rescuer:
    """Any number of processes may run this at once; each row is taken by one of them."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        submitter: Submitter,
        updates: Updates,
        *,
        max_lost_attempts: int,
        lost_message_after_s: float,
        lease_s: float,
    ) -> None:
        self._store = store
        self._queue = queue
        self._submitter = submitter
        self._updates = updates
        self._max_lost_attempts = max_lost_attempts
        self._lost_message_after_s = lost_message_after_s
        self._lease_s = lease_s
        self._trust_leases_at_s = float("-inf")
        self._read_again_at_s = float("-inf")

    def promote(self) -> int:
        """Queue the waiting jobs that are due; how many."""
        with self._noting_outages():
            jobs = self._store.promote_due(BATCH) if self._store.has_due_jobs() else []
        self._submitter.ring(jobs)
        return len(jobs)

    def rescue(self) -> Rescued:
        """One pass over everything that a crash can have left. Raises Unavailable; the next pass repeats."""
        with self._noting_outages():
            return Rescued(
                n_lost_attempts=self._lose_expired(),
                n_overdue=self._bury_overdue(),
                n_republished=self._republish_lost(),
                n_reported=self._report_ends(),
            )

    @contextmanager
    def _noting_outages(self) -> Iterator[None]:
        try:
            yield
        except StoreUnavailable:
            # While the store was away no worker could renew: give the living time to, or every
            # running job would run twice after an outage.
            self._trust_leases_at_s = time.monotonic() + self._lease_s
            raise

    def _lose_expired(self) -> int:
        if time.monotonic() < self._trust_leases_at_s:
            return 0
        changes = self._store.lose_expired(self._max_lost_attempts, BATCH)
        for change in changes:
            log.warning(
                "lease_expired",
                extra={
                    "job_id": change.job.id,
                    "attempt": change.job.attempt,
                    "state": change.job.state.value,
                },
            )
            self._follow_up(change)
        return len(changes)

    def _bury_overdue(self) -> int:
        changes = self._store.bury_overdue(BATCH)
        for change in changes:
            self._follow_up(change)
        return len(changes)

    def _follow_up(self, change: Changed) -> None:
        self._submitter.ring(change.queued)
        if change.job.state.is_final:
            self._submitter.report_end(change.job)
        self._updates.wake_relay()

    def _report_ends(self) -> int:
        """Tell Celery of ends it has not heard of: their worker died before it could call what comes next.

        A job that succeeded is delivered once more: the worker finds it done, and Celery goes on
        with its chain. Submitting the next job twice does nothing, since its id is fixed.
        """
        unreported = self._store.list_unreported(self._lost_message_after_s, BATCH)
        succeeded = [job for job in unreported if job.state is JobState.SUCCEEDED]
        if succeeded:
            self._queue.publish(succeeded)
            self._store.mark_published([job.id for job in succeeded])
        for job in unreported:
            if job.state is not JobState.SUCCEEDED:
                self._submitter.report_end(job)
        return len(unreported)

    def _republish_lost(self) -> int:
        """Ring again for the queued jobs whose message is in no queue.

        That covers a publish that failed, a message that died with a worker, and a Redis that
        came back without its data. A message that a live worker has just taken looks the same;
        ringing twice for a job does nothing.
        """
        if time.monotonic() < self._read_again_at_s:
            return 0
        suspects: dict[str, list[Job]] = defaultdict(list)
        for job in self._store.take_published_before(self._lost_message_after_s, BATCH):
            suspects[job.queue].append(job)
        try:
            lost = {queue: self._lost(queue, jobs) for queue, jobs in suspects.items()}
            for queue, jobs in lost.items():
                if jobs:
                    log.warning("messages_lost", extra={"queue": queue, "n_jobs": len(jobs)})
                    self._queue.publish(jobs)
        except BrokerUnavailable:
            self._store.mark_unpublished([job.id for jobs in suspects.values() for job in jobs])
            raise
        return sum(map(len, lost.values()))

    def _lost(self, queue: str, jobs: list[Job]) -> list[Job]:
        # Counting is one command; reading the ids costs as much as the queue is long.
        n_queued = self._store.count_jobs(JobFilter(states=[JobState.QUEUED], queue=queue))
        if self._queue.n_ready(queue) >= n_queued:
            return []
        started_s = time.monotonic()
        ready = self._queue.ready_ids(queue)
        ended_s = time.monotonic()
        self._read_again_at_s = ended_s + (ended_s - started_s) * (1 / READ_SHARE - 1)
        return [job for job in jobs if job.id not in ready]
