"""Accepting jobs: validate, store, ring."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress

import orjson

from pynomaly_tasks.core.ids import is_job_id, new_id
from pynomaly_tasks.core.job import Job, JobState, Json, NewJob
from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.errors import BrokerUnavailable, InvalidRequest, StoreUnavailable
from pynomaly_tasks.jobs.context import Kind
from pynomaly_tasks.jobs.options import JobOptions
from pynomaly_tasks.jobs.ports import Queue, Updates
from pynomaly_tasks.jobs.submission import Submission
from pynomaly_tasks.jobs.validation import validated
from pynomaly_tasks.store.store import Store

log = logging.getLogger(__name__)

#: One transaction and one pipeline; more at once would hold SQLite's write lock for seconds.
MAX_JOBS_PER_CALL = 10_000


class Submitter:
    """Turns requests into stored jobs whose message is in the broker."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        updates: Updates,
        kinds: Mapping[str, Kind],
        datasets: object,
        *,
        max_request_bytes: int,
        max_time_limit_s: float,
    ) -> None:
        self._store = store
        self._queue = queue
        self._updates = updates
        self._kinds = kinds
        self._datasets = datasets
        self._max_request_bytes = max_request_bytes
        self._max_time_limit_s = max_time_limit_s

    def submit(self, submission: Submission) -> Job:
        """Accept one job. Raises InvalidRequest, IdempotencyMismatch, StoreUnavailable."""
        return self.submit_many([submission])[0]

    def submit_many(self, submissions: Sequence[Submission]) -> list[Job]:
        """Accept all or none, in one transaction and one pipelined publish; at most 10,000.

        A broker that is down does not refuse a job: it is stored, and rescue rings for it later.
        """
        if len(submissions) > MAX_JOBS_PER_CALL:
            raise InvalidRequest.of(
                "jobs", f"{len(submissions)} were given, at most {MAX_JOBS_PER_CALL} fit one call; split them"
            )
        stored = self._store.insert_jobs([self._new_job(each) for each in submissions])
        self.ring([job for job, created in stored if created and job.state is JobState.QUEUED])
        if any(created for _, created in stored):
            self._updates.wake_relay()
        return [job for job, _ in stored]

    def adopt(self, submission: Submission) -> Job:
        """Store a job whose message is already here, sent by a process without this package.

        What is wrong with its dataset is found by its work: then the job says so, and is seen.
        """
        [(job, _)] = self._store.insert_jobs([self._new_job(submission, check=False)])
        return job

    def ring(self, jobs: Sequence[Job]) -> None:
        """Publish what the store says is queued. What cannot be sent now, rescue sends later."""
        if not jobs:
            return
        try:
            self._queue.publish(jobs)
        except BrokerUnavailable as error:
            log.warning("publish_postponed", extra={"n_jobs": len(jobs), "error": str(error)})
            # A hint only: without it, rescue finds the jobs a few seconds later.
            with suppress(StoreUnavailable):
                self._store.mark_unpublished([job.id for job in jobs])

    def hurry(self, job: Job) -> None:
        """Have the worker of a running job look at once whether it was cancelled; else it looks by itself."""
        if job.worker is None:
            return
        try:
            self._queue.hurry(job.worker)
        except BrokerUnavailable as error:
            log.info("worker_not_hurried", extra={"job_id": job.id, "error": str(error)})

    def report_end(self, job: Job) -> None:
        """Tell Celery of a job that ended outside a delivery. What cannot be told now, rescue tells later."""
        try:
            self._queue.report_end(job)
        except BrokerUnavailable as error:
            log.warning("report_postponed", extra={"job_id": job.id, "error": str(error)})
        else:
            self._store.mark_reported(job.id)

    def _new_job(self, submission: Submission, *, check: bool = True) -> NewJob:
        kind = self._kinds.get(submission.kind)
        if kind is None:
            raise InvalidRequest.of(
                "kind", f"{submission.kind!r} is unknown; the kinds are {', '.join(sorted(self._kinds))}"
            )
        job_id = submission.job_id or new_id()
        if not is_job_id(job_id):
            raise InvalidRequest.of(
                "task_id",
                f"{job_id[:100]!r} is no job id: letters, digits, '_', '-' and '.' are taken, at most 200, "
                "and no '-' or '.' at the start; leave it out to get one",
            )
        options = validated(JobOptions, submission.options)
        if options.time_limit_s is not None and options.time_limit_s > self._max_time_limit_s:
            raise InvalidRequest.of(
                "time_limit_s",
                f"{options.time_limit_s:g} is above the limit of {self._max_time_limit_s:g} s "
                "(setting jobs.max_time_limit_s)",
            )
        request = validated(kind.request_model, submission.request)
        plain = request.model_dump(mode="json", exclude_unset=True)
        size = len(orjson.dumps(plain))
        if size > self._max_request_bytes:
            raise InvalidRequest.of(
                "request",
                f"is {size:,} bytes of JSON, at most {self._max_request_bytes:,} are taken; "
                "put the data into a dataset and name that",
            )
        if check and kind.check is not None:
            kind.check(request, self._datasets)
        default = RetryPolicy()
        return NewJob(
            id=job_id,
            kind=kind.name,
            queue=options.queue or kind.queue,
            request=plain,
            priority=options.priority,
            retry=RetryPolicy(
                max_retries=default.max_retries if options.max_retries is None else options.max_retries,
                backoff_s=default.backoff_s if options.backoff_s is None else options.backoff_s,
            ),
            time_limit_s=options.time_limit_s or kind.time_limit_s,
            delay_s=options.delay_s,
            run_at=options.run_at,
            deadline_at=options.deadline_at,
            idempotency_key=options.idempotency_key,
            ordering_key=options.ordering_key,
            tags=options.tags,
            owner=options.owner,
            replay_of=options.replay_of,
            parent_id=options.parent_id,
            root_id=options.root_id or job_id,
            envelope=_traced(submission.envelope, options.traceparent),
            events=submission.events,
        )


def _traced(envelope: Json, traceparent: str | None) -> Json:
    """With the caller's trace among the headers of the job's messages."""
    if traceparent is None:
        return envelope
    return {**envelope, "headers": {**(envelope.get("headers") or {}), "traceparent": traceparent}}
