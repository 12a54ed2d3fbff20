"""Running one attempt: claim, resolve, perform, settle, report."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pynomaly_tasks.core.job import (
    AttemptOutcome,
    DeadReason,
    Job,
    JobError,
    JobState,
    Progress,
)
from pynomaly_tasks.errors import (
    Interrupted,
    JobCancelled,
    PynomalyError,
    StaleAttempt,
    StoreUnavailable,
    TimeLimitExceeded,
)
from pynomaly_tasks.events.catalog import require_valid
from pynomaly_tasks.jobs.announce import announce_progress
from pynomaly_tasks.jobs.context import Kind, Outcome
from pynomaly_tasks.jobs.ports import ArtifactWriter, Updates
from pynomaly_tasks.jobs.submit import Submitter
from pynomaly_tasks.jobs.validation import validated
from pynomaly_tasks.store.store import Store
from pynomaly_tasks.store.transitions import Changed, Settlement

log = logging.getLogger(__name__)

_MAX_ERROR_CHARACTERS = 4_000
_MAX_TRACEBACK_CHARACTERS = 20_000
_SETTLE_PATIENCE_S = 120.0
_SETTLE_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What came of a delivery."""

    job: Job
    ran: bool  #: False when the delivery found nothing to do
    error: BaseException | None = None  #: what the attempt raised


class RunningAttempt:
    """The `JobContext` of one attempt."""

    def __init__(
        self,
        job: Job,
        scratch_root: Path,
        store: Store,
        updates: Updates,
        *,
        write_every_s: float,
        time_limit_s: float,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._job = job
        self._scratch_root = scratch_root
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._store = store
        self._updates = updates
        self._write_every_s = write_every_s
        self._on_progress = on_progress
        self._looked_at_s = time.monotonic()
        self._wrote_at_s = float("-inf")
        self.stop_at_s = time.monotonic() + time_limit_s
        self.thread_id = threading.get_ident()

    @property
    def job_id(self) -> str:
        """The job."""
        return self._job.id

    @property
    def attempt(self) -> int:
        """Which try this is, from 1."""
        return self._job.attempt

    @property
    def scratch(self) -> Path:
        """This attempt's directory, made when it is first asked for."""
        if self._scratch is None:
            self._scratch_root.mkdir(parents=True, exist_ok=True)
            self._scratch = tempfile.TemporaryDirectory(
                prefix=f"{self.job_id}-{self.attempt}-", dir=self._scratch_root, ignore_cleanup_errors=True
            )
        return Path(self._scratch.name)

    def close(self) -> None:
        """Remove what it left in its directory."""
        if self._scratch is not None:
            self._scratch.cleanup()

    def progress(self, current: int, total: int, status: str) -> None:
        """Tell who watches; write it, at most every ``write_every_s``; raise when the job must stop."""
        now = time.monotonic()
        progress = Progress(current=current, total=total, status=status)
        announce_progress(self._updates, self._job, progress)
        if now - self._wrote_at_s < self._write_every_s:
            self.checkpoint()
            return
        self._wrote_at_s = self._looked_at_s = now
        try:
            cancelled = self._store.record_progress(self.job_id, self.attempt, progress)
        except StoreUnavailable as error:
            cancelled = self._work_on(error)
        if cancelled:
            raise JobCancelled(f"job {self.job_id} was cancelled")
        self._on_progress(progress)
        self._check_time(now)

    def checkpoint(self) -> None:
        """Raise when the job is cancelled, out of time, or another attempt's."""
        now = time.monotonic()
        self._check_time(now)
        if now - self._looked_at_s < self._write_every_s:
            return
        self._looked_at_s = now
        try:
            owns, cancelled = self._store.check_attempt(self.job_id, self.attempt)
        except StoreUnavailable as error:
            owns, cancelled = True, self._work_on(error)
        if not owns:
            raise StaleAttempt(f"attempt {self.attempt} no longer owns job {self.job_id}")
        if cancelled:
            raise JobCancelled(f"job {self.job_id} was cancelled")

    def _work_on(self, error: StoreUnavailable) -> bool:
        # A store that restarts must not cost the work of an hour; settling waits for it.
        log.warning("progress_not_written", extra={"job_id": self.job_id, "error": str(error)})
        return False

    def _check_time(self, now: float) -> None:
        if now > self.stop_at_s:
            raise TimeLimitExceeded(f"job {self.job_id} ran longer than its time limit")


class Runner:
    """Runs attempts in this process."""

    def __init__(
        self,
        store: Store,
        submitter: Submitter,
        updates: Updates,
        artifacts: ArtifactWriter,
        kinds: Mapping[str, Kind],
        services: object,
        *,
        lease_s: float,
        write_every_s: float,
        time_limit_s: float,
        scratch_root: Path,
    ) -> None:
        self._store = store
        self._submitter = submitter
        self._updates = updates
        self._artifacts = artifacts
        self._kinds = kinds
        self._services = services
        self._lease_s = lease_s
        self._write_every_s = write_every_s
        self._time_limit_s = time_limit_s
        self._scratch_root = scratch_root
        #: Attempts running in this process, by job; the worker's watch reads it.
        self.running: dict[str, RunningAttempt] = {}

    def run(
        self,
        job_id: str,
        worker: str,
        *,
        on_start: Callable[[Job], None] = lambda job: None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> Finished:
        """Run the job once, if it may run now. Raises NotFound for a job that is not stored.

        A delivery of a job that is running, waiting or ended does nothing: it is normal, and
        answered with the job as it stands.
        """
        changed, claimed = self._store.claim(job_id, worker, self._lease_s)
        job = changed.job
        if not claimed:
            log.info("delivery_ignored", extra={"job_id": job_id, "state": job.state.value})
            self._submitter.ring(changed.queued)
            return Finished(job=job, ran=False)
        try:
            settlement = self._attempt(job, on_start, on_progress)
        except Exception as raised:
            return self._settle(job, self._after_error(job, raised), raised)
        return self._settle(job, settlement)

    def _attempt(
        self, job: Job, on_start: Callable[[Job], None], on_progress: Callable[[Progress], None]
    ) -> Settlement:
        self._updates.wake_relay()
        on_start(job)
        return self._perform(job, on_progress, time.monotonic())

    def _settle(self, job: Job, settlement: Settlement, error: Exception | None = None) -> Finished:
        """End the attempt. A store that is away is waited for: hours of work may hang on it."""
        self._updates.finish_progress(job.id)
        give_up_at_s = time.monotonic() + _SETTLE_PATIENCE_S
        is_result = settlement.state is JobState.SUCCEEDED
        while True:
            try:
                changed = self._store.settle(job.id, job.attempt, settlement)
            except StaleAttempt as stale:
                # Another attempt has the job, or it ended: this one's result counts for nothing.
                log.warning("late_result_refused", extra={"job_id": job.id, "attempt": job.attempt})
                return Finished(job=self._store.get_job(job.id), ran=False, error=stale)
            except StoreUnavailable as away:
                if time.monotonic() > give_up_at_s:
                    raise
                log.warning("settling_postponed", extra={"job_id": job.id, "error": str(away)})
                time.sleep(_SETTLE_PAUSE_S)
            except Exception as raised:
                # The limit's signal may come now: the work was done before it. A result that the
                # store cannot hold, such as one with a set in it, is the job's failure.
                if not _is_stop(raised):
                    if not is_result and not settlement.events:
                        raise
                    is_result, error = False, raised
                    settlement = replace(self._after_error(job, raised), state=JobState.FAILED)
            else:
                self.report(changed)
                return Finished(job=changed.job, ran=True, error=error)

    def report(self, changed: Changed) -> None:
        """Ring for the jobs that a change let into their queue, and have its events published."""
        self._submitter.ring(changed.queued)
        self._updates.wake_relay()

    def _perform(self, job: Job, on_progress: Callable[[Progress], None], started: float) -> Settlement:
        kind = self._kinds.get(job.kind)
        if kind is None:
            message = f"no worker code for {job.kind!r}; the kinds here are {', '.join(sorted(self._kinds))}"
            return Settlement(
                state=JobState.DEAD,
                outcome=AttemptOutcome.FAILED,
                error=JobError(type="UnknownTask", message=message),
                dead_reason=DeadReason.UNKNOWN_TASK,
            )
        context = RunningAttempt(
            job,
            self._scratch_root,
            self._store,
            self._updates,
            write_every_s=self._write_every_s,
            time_limit_s=job.time_limit_s or self._time_limit_s,
            on_progress=on_progress,
        )
        self.running[job.id] = context
        try:
            outcome = kind.perform(context, validated(kind.request_model, job.request), self._services)
            for event in outcome.events:
                require_valid(event)
            artifacts = {
                name: self._artifacts.put(job.id, job.attempt, name, path)
                for name, path in outcome.files.items()
            }
        finally:
            self.running.pop(job.id, None)
            context.close()
        return Settlement(
            state=JobState.SUCCEEDED,
            outcome=AttemptOutcome.SUCCEEDED,
            summary=_summary(job, outcome, time.monotonic() - started),
            detail=outcome.detail,
            artifacts=artifacts,
            events=outcome.events,
        )

    @staticmethod
    def _after_error(job: Job, error: Exception) -> Settlement:
        described = JobError(
            type=type(error).__name__,
            message=_printable(str(error), _MAX_ERROR_CHARACTERS),
            traceback=_printable("".join(traceback.format_exception(error)), _MAX_TRACEBACK_CHARACTERS),
        )
        if isinstance(error, JobCancelled):
            return Settlement(state=JobState.CANCELLED, outcome=AttemptOutcome.CANCELLED, error=described)
        if _is_stop(error):
            limit = "the setting's" if job.time_limit_s is None else f"{job.time_limit_s:g} s"
            described = JobError(
                type="TimeLimitExceeded",
                message=f"the attempt was stopped at its time limit ({limit}); submit it with a longer time_limit_s",
                traceback=described.traceback,
            )
            return Settlement(state=JobState.FAILED, outcome=AttemptOutcome.TIMED_OUT, error=described)
        events = error.events if isinstance(error, PynomalyError) else ()
        if not getattr(error, "retryable", True):
            return Settlement(
                state=JobState.FAILED, outcome=AttemptOutcome.FAILED, error=described, events=events
            )
        if job.n_failed < job.retry.max_retries:
            return Settlement(
                state=JobState.WAITING,
                outcome=AttemptOutcome.FAILED,
                error=described,
                # A server may have said when to come back.
                retry_delay_s=max(
                    job.retry.delay_s(job.n_failed + 1), getattr(error, "retry_after_s", None) or 0.0
                ),
                events=events,
            )
        return Settlement(
            state=JobState.DEAD,
            outcome=AttemptOutcome.FAILED,
            error=described,
            dead_reason=DeadReason.RETRIES_USED_UP,
            events=events,
        )


def _is_stop(error: Exception) -> bool:
    return isinstance(error, Interrupted) or type(error).__name__ == "SoftTimeLimitExceeded"


def _summary(job: Job, outcome: Outcome, processing_time_s: float) -> dict[str, object]:
    return {
        "job_id": job.id,
        "status": JobState.SUCCEEDED.value,
        "anomalies_found": outcome.anomalies_found,
        "processing_time": round(processing_time_s, 6),
        **outcome.summary,
    }


def _printable(text: str, limit: int) -> str:
    """PostgreSQL keeps no NUL; the end of a long text says more than its middle."""
    text = text.replace("\x00", "\\x00")
    return text if len(text) <= limit else f"{text[: limit // 4]}\n[...]\n{text[-(limit * 3) // 4 :]}"
