"""The base of every task that is a job: a door to the engine on both sides of the broker."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import structlog
from celery import Task
from celery.exceptions import Ignore, Retry
from celery.result import AsyncResult

from pynomaly_tasks.bootstrap import current_platform
from pynomaly_tasks.core.ids import new_job_id
from pynomaly_tasks.core.job import DeadReason, Job, JobState, Progress
from pynomaly_tasks.errors import InvalidRequest, NotFound, StoreUnavailable
from pynomaly_tasks.jobs.context import Kind
from pynomaly_tasks.jobs.submission import Submission
from pynomaly_tasks.jobs.validation import named_arguments
from pynomaly_tasks.queueing.envelope import ENVELOPE_KEYS
from pynomaly_tasks.queueing.failure import JobFailed
from pynomaly_tasks.tasks.identity import worker_id

if TYPE_CHECKING:
    from pynomaly_tasks.jobs.run import Finished

log = structlog.get_logger(__name__)

#: Options of `apply_async` that mean nothing here: the job's row decides what they would.
_IGNORED_OPTIONS = frozenset(
    {"producer", "connection", "router", "retry", "retry_policy", "serializer", "compression", "retries"}
    | {"task_type", "add_to_parent", "publisher", "exchange", "routing_key", "argsrepr", "kwargsrepr"}
    | {"soft_time_limit", "headers", "delivery_mode", "queue_name", "result_cls"}
)


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
        """Submit a job. Raises InvalidRequest, IdempotencyMismatch, StoreUnavailable."""
        request = named_arguments(self.kind.request_model, args or (), kwargs or {})
        parent = self.app.current_worker_task
        if parent is not None and parent.request.id:
            options["parent_id"] = options.get("parent_id") or parent.request.id
            options["root_id"] = options.get("root_id") or parent.request.root_id
        job = current_platform().submitter.submit(
            Submission(
                kind=self.kind.name,
                request=request,
                job_id=task_id or new_job_id(),
                options=job_options(options),
                envelope=_envelope(options),
            )
        )
        result = self.AsyncResult(job.id)
        if parent is not None and options.get("add_to_parent", True):
            parent.add_trail(result)
        return result

    def run(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """Run the job of this delivery; its summary."""
        delivery = self.request
        try:
            finished = self._run(delivery.id)
        except NotFound:
            self._adopt(args, kwargs)
            finished = self._run(delivery.id)
        return self._answer(finished)

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Celery has called what comes next."""
        self._mark_reported(task_id)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Celery has called the errbacks."""
        self._mark_reported(task_id)

    def _mark_reported(self, job_id: str) -> None:
        request = self.request
        if request.chain or request.callbacks or request.errbacks or request.chord:
            try:
                current_platform().store.mark_reported(job_id)
            except StoreUnavailable as error:
                log.warning("report_not_marked", job_id=job_id, error=str(error))  # rescue reports once more

    def _run(self, job_id: str) -> Finished:
        return current_platform().runner.run(
            job_id, worker_id(self.request.hostname), on_start=self._on_start, on_progress=self._on_progress
        )

    def _adopt(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Make the row of a message that somebody sent without our package."""
        platform = current_platform()
        delivery = self.request
        info = delivery.delivery_info or {}
        queue = info.get("routing_key") or self.kind.queue
        try:
            platform.submitter.adopt(
                Submission(
                    kind=self.kind.name,
                    request=named_arguments(self.kind.request_model, args, kwargs),
                    job_id=delivery.id,
                    options={"queue": queue, "root_id": delivery.root_id, "parent_id": delivery.parent_id},
                    envelope=_envelope_of_delivery(delivery),
                )
            )
        except InvalidRequest as error:
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
            best_effort(self.update_state, state=state, meta=dict(meta))

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
            if finished.ran and finished.error is not None:
                raise finished.error
            raise JobFailed.of(job)
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


def job_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Celery's options and ours as the fields of `JobOptions`. Raises InvalidRequest for what neither knows."""
    ours: dict[str, Any] = {}
    for name, value in options.items():
        if value is None or name in ENVELOPE_KEYS or name in _IGNORED_OPTIONS:
            continue
        if name == "countdown":
            ours["delay_s"] = value
        elif name == "eta":
            ours["run_at"] = value if isinstance(value, str) else _aware(value)
        elif name == "expires":
            ours["deadline_at"] = _instant(value)
        elif name == "time_limit":
            ours["time_limit_s"] = value
        elif name == "queue":
            ours["queue"] = getattr(value, "name", value)
        elif name in options.get("stamped_headers", ()) or ():
            continue
        else:
            ours[name] = value
    if "delay_s" in ours and "run_at" in ours:
        del ours["delay_s"]  # as Celery does
    return ours


def _instant(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return datetime.now(UTC) + timedelta(seconds=value)
    return _aware(value) if isinstance(value, datetime) else value


def _aware(value: datetime) -> datetime:
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _envelope(options: Mapping[str, Any]) -> dict[str, Any]:
    envelope = {name: options[name] for name in ENVELOPE_KEYS if options.get(name)}
    for name in ("link", "link_error"):
        if name in envelope and not isinstance(envelope[name], (list, tuple)):
            envelope[name] = [envelope[name]]
    stamped = options.get("stamped_headers") or ()
    if stamped:
        envelope["stamps"] = {name: options[name] for name in stamped if name in options}
    return envelope


def _envelope_of_delivery(delivery: Any) -> dict[str, Any]:
    found = {
        "group_id": delivery.group,
        "group_index": delivery.group_index,
        "chord": delivery.chord,
        "chain": delivery.chain,
        "link": delivery.callbacks,
        "link_error": delivery.errbacks,
        "reply_to": delivery.reply_to,
        "ignore_result": delivery.ignore_result,
    }
    return {name: value for name, value in found.items() if value}


def _payload(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    import json

    return json.dumps({"args": list(args), "kwargs": dict(kwargs)}, default=repr).encode()
