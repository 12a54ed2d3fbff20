"""Cancelling and replaying jobs, one by one or by filter."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pynomaly_tasks.core import ids
from pynomaly_tasks.core.audit_events import Actor, JobReplayed, user_at
from pynomaly_tasks.core.job import Job, JobState
from pynomaly_tasks.errors import Conflict, InvalidRequest
from pynomaly_tasks.jobs.ports import Updates
from pynomaly_tasks.jobs.submission import Submission
from pynomaly_tasks.jobs.submit import Submitter
from pynomaly_tasks.store.reads import JobFilter
from pynomaly_tasks.store.store import Store

_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """What a change by filter did, or would do."""

    n_matched: int
    changed: tuple[str, ...]  #: ids; of the new jobs for a replay; empty for a dry run
    refused: Mapping[str, str]  #: id to reason


class Controls:
    """What people do to jobs that exist."""

    def __init__(self, store: Store, submitter: Submitter, updates: Updates) -> None:
        self._store = store
        self._submitter = submitter
        self._updates = updates

    def cancel(self, job_id: str, reason: str = "", *, actor: Actor | None = None) -> Job:
        """Cancel a job: at once before it starts, within two seconds while it runs.

        ``actor`` None is the user that runs this process. Raises NotFound, JobAlreadyFinal.
        """
        changed = self._store.cancel(job_id, reason, actor or user_at("python"))
        self._submitter.ring(changed.queued)
        if changed.job.state.is_final:
            self._submitter.report_end(changed.job)
        else:
            self._submitter.hurry(changed.job)
        self._updates.wake_relay()
        return changed.job

    def replay(
        self, job_id: str, edits: Mapping[str, Any] | None = None, *, actor: Actor | None = None
    ) -> Job:
        """Run an ended job again as a new one, linked to the old, its request changed by ``edits``.

        An edit of None removes the field. Raises NotFound, Conflict while the job is open, and
        InvalidRequest when the edited request is wrong; the old job stays as it is.
        """
        old = self._store.get_job(job_id)
        if not old.state.is_final:
            raise Conflict(f"job {job_id} is {old.state}; only an ended job can be replayed, cancel it first")
        request = {**old.request, **(edits or {})}
        actor = actor or user_at("python")
        new_id = ids.new_id()
        new = self._submitter.submit(
            Submission(
                job_id=new_id,
                kind=old.kind,
                request={name: value for name, value in request.items() if value is not None},
                options={
                    "queue": old.queue,
                    "priority": old.priority,
                    "time_limit_s": old.time_limit_s,
                    "ordering_key": old.ordering_key,
                    "tags": old.tags,
                    "owner": old.owner,
                    "max_retries": old.retry.max_retries,
                    "backoff_s": old.retry.backoff_s,
                    "replay_of": old.id,
                },
                envelope=old.envelope,
                events=[
                    JobReplayed(
                        actor=actor.name,
                        door=actor.door,
                        address=actor.address,
                        job_id=old.id,
                        new_job_id=new_id,
                        edited=tuple(edits or ()),
                    )
                ],
            )
        )
        self._store.mark_replayed(old.id, new.id)
        return new

    def cancel_where(
        self, which: JobFilter, *, reason: str = "", dry_run: bool = True, actor: Actor | None = None
    ) -> Bulk:
        """Cancel every open job that passes the filter; a dry run only counts them."""
        open_states = [state for state in JobState if not state.is_final]
        return self._each(
            which, open_states, lambda job: self.cancel(job.id, reason, actor=actor).id, dry_run
        )

    def replay_where(
        self,
        which: JobFilter,
        *,
        edits: Mapping[str, Any] | None = None,
        dry_run: bool = True,
        actor: Actor | None = None,
    ) -> Bulk:
        """Replay every failed, cancelled or dead job that passes the filter; a dry run only counts them.

        Those that were replayed before, or discarded, stay out: running it again changes nothing more.
        """
        which = replace(which, is_settled=False)
        states = [JobState.FAILED, JobState.CANCELLED, JobState.DEAD]
        return self._each(which, states, lambda job: self.replay(job.id, edits, actor=actor).id, dry_run)

    def _each(
        self, which: JobFilter, states: Collection[JobState], change: Callable[[Job], str], dry_run: bool
    ) -> Bulk:
        allowed = [state for state in states if which.states is None or state in which.states]
        which = replace(which, states=allowed)
        if dry_run:
            return Bulk(n_matched=self._store.count_jobs(which), changed=(), refused={})
        changed: list[str] = []
        refused: dict[str, str] = {}
        before_seq: int | None = None
        while page := self._store.select_jobs(which, before_seq=before_seq, limit=_PAGE):
            for job in page:
                try:
                    changed.append(change(job))
                except (Conflict, InvalidRequest) as error:
                    refused[job.id] = str(error)
            before_seq = page[-1].seq
        return Bulk(n_matched=len(changed) + len(refused), changed=tuple(changed), refused=refused)
