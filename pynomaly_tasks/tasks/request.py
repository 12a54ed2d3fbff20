"""The parent process's side of a running job: what to write when the child cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from billiard.exceptions import WorkerLostError
from celery.worker.request import Request

from pynomaly_tasks.bootstrap import current_platform
from pynomaly_tasks.core.job import AttemptOutcome, DeadReason, JobError, JobState
from pynomaly_tasks.errors import Conflict, JobFailed, NotFound, PynomalyError, StoreUnavailable
from pynomaly_tasks.store.transitions import Settlement
from pynomaly_tasks.tasks import undelivered
from pynomaly_tasks.tasks.identity import worker_id
from pynomaly_tasks.tasks.revoke import REVOKER
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)


class JobRequest(Request):  # type: ignore[misc]  # Celery has no types
    """Celery's request, telling the engine about children that died and jobs that were revoked."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """A child that died takes nothing with it: its attempt is lost, its job queued again or buried."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        died = isinstance(error, (WorkerLostError, SystemExit, KeyboardInterrupt))
        if (
            died
            and not self._already_revoked
            and self._tell_engine(lambda: self._lose_and_give_up(str(error)))
        ):
            return None
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """A task that did not heed its soft limit has been killed; its job says so."""
        if not soft:
            self._tell_engine(lambda: self._time_out(timeout))
        super().on_timeout(soft, timeout)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        if expired:
            self._tell_engine(self._bury)
        else:
            self._tell_engine(lambda: self._cancel(terminated, reason))
        super()._announce_revoked(reason, terminated, signum, expired)

    @property
    def _worker(self) -> str:
        return worker_id(self.hostname)

    def _lose_and_give_up(self, why: str) -> None:
        self._lose(f"its process died: {why}")
        self._settle_delivery(JobError(type="WorkerLost", message=why))

    def _lose(self, why: str) -> None:
        platform = current_platform()
        changed = platform.store.lose(
            self.id,
            self._worker,
            JobError(type="WorkerLost", message=why),
            platform.settings.jobs.max_lost_attempts,
        )
        if changed is not None:
            platform.runner.report(changed)

    def _time_out(self, limit_s: float) -> None:
        platform = current_platform()
        job = platform.store.get_job(self.id)
        if job.worker != self._worker or job.state is not JobState.RUNNING:
            return
        error = JobError(
            type="TimeLimitExceeded",
            message=f"the attempt was killed {limit_s:g} s after its start; submit it with a longer time_limit_s",
        )
        platform.runner.report(
            platform.store.settle(
                self.id,
                job.attempt,
                Settlement(state=JobState.FAILED, outcome=AttemptOutcome.TIMED_OUT, error=error),
            )
        )

    def _cancel(self, terminated: bool, reason: str) -> None:
        current_platform().cancel(self.id, f"revoked through Celery: {reason}", actor=REVOKER)
        if terminated:
            self._lose("it was terminated")

    def _bury(self) -> None:
        platform = current_platform()
        try:
            platform.runner.report(
                platform.store.bury(self.id, DeadReason.DEADLINE_PASSED, undelivered.EXPIRED)
            )
        except (NotFound, StoreUnavailable):
            # Sent without this package, so that the message is all there is; or nobody can tell now.
            undelivered.keep_expired(self.message)

    def _settle_delivery(self, error: JobError) -> None:
        """Tell Celery how the job stands, and give the message up: the engine rings anew when it must."""
        from celery.worker.state import task_ready

        from pynomaly_tasks.tasks.job_task import best_effort

        task_ready(self)
        platform = current_platform()
        job = platform.store.find_job(self.id)
        failure = JobFailed(f"{error.type}: {error.message}")
        if job is not None and job.state.is_final:
            platform.submitter.report_end(job)
        else:
            best_effort(self.task.backend.mark_as_retry, self.id, failure, request=self._context)
        self.acknowledge()
        self.send_event("task-failed", exception=str(failure), traceback="")

    def _tell_engine(self, tell: Callable[[], None]) -> bool:
        """False when the store did not hear of it; the lease runs out, then rescue does the same."""
        try:
            tell()
        except (NotFound, Conflict):
            return True  # not a stored job, or it ended meanwhile
        except PynomalyError as error:
            log.warning("engine_not_told", job_id=self.id, error=str(error))
            return False
        return True
