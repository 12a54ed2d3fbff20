"""The base of every task that is a job: a door to the engine on both sides of the broker."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery import Task
from celery.exceptions import Ignore, Reject, Retry
from celery.result import AsyncResult

from pynomaly_tasks.bootstrap import current_platform
from pynomaly_tasks.core.ids import is_job_id
from pynomaly_tasks.core.job import DeadReason, Job, JobState, Progress
from pynomaly_tasks.errors import InvalidInput, NotFound, StoreUnavailable
from pynomaly_tasks.jobs.context import Kind
from pynomaly_tasks.jobs.submission import Submission
from pynomaly_tasks.jobs.validation import named_arguments
from pynomaly_tasks.queueing.callbacks import give_ids
from pynomaly_tasks.queueing.failure import failure_of
from pynomaly_tasks.tasks.call_options import envelope, envelope_of_delivery, job_options, trace_headers
from pynomaly_tasks.tasks.identity import worker_id
from pynomaly_tasks.telemetry import get_logger

if TYPE_CHECKING:
    from pynomaly_tasks.jobs.run import Finished

log = get_logger(__name__)

#: A slot that finds the store away gives its delivery back after this long, so as not to spin.
_STORE_AWAY_PAUSE_S = 1.0


class JobTask(Task):  # type: ignore[misc]  # Celery has no types
    """Called, it submits a job and rings for it; delivered, it runs the job.

    ``.delay(...)`` and ``.apply_async(...)`` validate the arguments here, in the caller, and
    return once the job is stored. Beside Celery's options they take `JobOptions`; ``priority``
    is 0 to 9, higher first.
    """

    abstract = True
    typing = False  # the request model checks the arguments, and names the field
    Request = "pynomaly_tasks.tasks.request:JobRequest"
    kind: Kind

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        **options: Any,
    ) -> AsyncResult:
        """Submit a job. Raises InvalidRequest, InvalidDataset, IdempotencyMismatch, StoreUnavailable."""
        request = named_arguments(self.kind.request_model, args or (), kwargs or {})
        parent = self.app.current_worker_task
        if parent is not None and parent.request.id:
            options["parent_id"] = options.get("parent_id") or parent.request.id
            options["root_id"] = options.get("root_id") or parent.request.root_id
            # What a job of a trace submits, or its chain goes on with, belongs to that trace.
            options["headers"] = {**trace_headers(parent.request), **(options.get("headers") or {})} or None
        job = current_platform().submitter.submit(
            Submission(
                kind=self.kind.name,
                request=request,
                job_id=task_id,
                options=job_options(options),
                envelope=envelope(options),
            )
        )
        result = self.AsyncResult(job.id)
        if parent is not None and options.get("add_to_parent", True):
            parent.add_trail(result)
        return result

    def run(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """Run the job of this delivery; its summary."""
        delivery = self.request
        if delivery.called_directly:
            raise TypeError(f"{self.name} runs in a worker: call .delay(...) or .apply_async(...) instead")
        give_ids(delivery)
        try:
            return self._answer(self._finished(args, kwargs))
        except StoreUnavailable as error:
            # Nothing is known to be done, so the message must live on, in the broker.
            log.warning("delivery_given_back", job_id=delivery.id, error=str(error))
            time.sleep(_STORE_AWAY_PAUSE_S)
            raise Reject(str(error), requeue=True) from error

    def _finished(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Finished:
        if is_job_id(self.request.id):  # no row has another, and PostgreSQL refuses to look for some
            with suppress(NotFound):
                return self._run(self.request.id)
        self._adopt(args, kwargs)
        return self._run(self.request.id)

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Celery has called what comes next."""
        self._mark_reported(task_id)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Celery has called the errbacks."""
        self._mark_reported(task_id)

    def _mark_reported(self, job_id: str) -> None:
        request = self.request
        comes_next = request.chain or request.callbacks or request.errbacks or request.chord
        if comes_next and is_job_id(job_id):
            try:
                current_platform().store.mark_reported(job_id)
            except StoreUnavailable as error:
                log.warning("report_not_marked", job_id=job_id, error=str(error))  # rescue reports once more

    def _run(self, job_id: str) -> Finished:
        return current_platform().runner.run(
            job_id, worker_id(self.request.hostname), on_start=self._on_start, on_progress=self._on_progress
        )

    def _adopt(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Make the row of a message that somebody sent without our package. Raises InvalidInput."""
        platform = current_platform()
        delivery = self.request
        info = delivery.delivery_info or {}
        queue = info.get("routing_key") or self.kind.queue
        hard_s, soft_s = delivery.timelimit or (None, None)
        try:
            platform.submitter.adopt(
                Submission(
                    kind=self.kind.name,
                    request=named_arguments(self.kind.request_model, args, kwargs),
                    job_id=delivery.id,
                    options={
                        "queue": queue,
                        "root_id": delivery.root_id,
                        "parent_id": delivery.parent_id,
                        "time_limit_s": soft_s or hard_s,
                    },
                    envelope=envelope_of_delivery(delivery),
                )
            )
        except InvalidInput as error:
            platform.store.add_unreadable(
                queue, self.kind.name, _payload(args, kwargs), DeadReason.UNREADABLE, str(error)
            )
            raise

    def _on_start(self, job: Job) -> None:
        self._note("STARTED", {"pid": os.getpid(), "hostname": self.request.hostname, "attempt": job.attempt})

    def _on_progress(self, progress: Progress) -> None:
        self._note(
            "PROGRESS",
            {"current": progress.current, "total": progress.total, "status": progress.status},
        )

    def _note(self, state: str, meta: Mapping[str, Any]) -> None:
        if not self.request.ignore_result:
            best_effort(self.backend.note, self.request.id, state, meta, self.request)

    def _answer(self, finished: Finished) -> Mapping[str, Any]:
        """The job's end as Celery knows ends: a value, or one of its exceptions."""
        job = finished.job
        if job.state is JobState.SUCCEEDED:
            assert job.summary is not None
            # For a repeated delivery too: the first one may have died before Celery called
            # what comes next in the chain, and submitting that twice does nothing.
            return job.summary
        if job.state is JobState.CANCELLED:
            current_platform().submitter.report_end(job)
            raise Ignore
        if job.state in (JobState.FAILED, JobState.DEAD):
            raise failure_of(job, finished.error if finished.ran else None)
        if finished.ran:
            raise Retry(message=f"job {job.id} is {job.state}", exc=finished.error, when=job.run_at)
        # Running elsewhere, waiting, or queued again: another delivery is, or will be, its own.
        raise Ignore


def best_effort(call: Any, *args: Any, **kwargs: Any) -> None:
    """Call what only informs: Redis being away must not fail a job whose truth is in the store."""
    import redis
    from celery.exceptions import BackendError

    try:
        call(*args, **kwargs)
    except (redis.RedisError, BackendError, OSError, RuntimeError) as error:
        log.warning("result_backend_unreachable", error=str(error))


def _payload(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    import json

    return json.dumps({"args": list(args), "kwargs": dict(kwargs)}, default=repr).encode()
