"""Any interleaving of claims, results, losses, cancels and promotions, held against a model of the rules."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from pynomaly_tasks.core.job import ALLOWED, AttemptOutcome, DeadReason, JobState
from pynomaly_tasks.errors import Conflict, JobAlreadyFinal, StaleAttempt
from pynomaly_tasks.store.store import Store
from pynomaly_tasks.store.transitions import Settlement
from support.stores import ERROR, EXPIRED_S, FAILURE, LEASE_S, SUCCESS, add, retry_after, states_told_after

MAX_LOST = 3
DEAD = Settlement(
    state=JobState.DEAD,
    outcome=AttemptOutcome.FAILED,
    error=ERROR,
    dead_reason=DeadReason.RETRIES_USED_UP,
)
WORKERS = st.sampled_from(["w1", "w2"])


@dataclass
class Model:
    """What the rules say of one job."""

    id: str
    seq: int
    key: str | None
    due: bool
    state: JobState
    attempt: int = 0
    n_lost: int = 0
    worker: str = ""
    expired: bool = False
    cancelled: bool = False
    won: int | None = None  #: the attempt whose result stands


class JobsOfOneStore(RuleBasedStateMachine):
    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="pynomaly-state-machine-"))
        self.store = Store(f"sqlite:///{self.directory / 'jobs.sqlite3'}")
        self.store.migrate()
        self.models: dict[str, Model] = {}
        self.seen: dict[str, JobState] = {}
        self.told: dict[str, list[JobState]] = {}
        self.last_told = 0

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.directory)

    # ---- the rules in the model

    def is_first(self, model: Model) -> bool:
        return model.key is None or not any(
            other.key == model.key and other.seq < model.seq and not other.state.is_final
            for other in self.models.values()
        )

    def let_in(self) -> list[str]:
        found = [
            m for m in self.models.values() if m.state is JobState.WAITING and m.due and self.is_first(m)
        ]
        for model in found:
            model.state = JobState.QUEUED
        return [model.id for model in found]

    def end(self, model: Model, state: JobState) -> list[str]:
        """The ids that the end lets in: of its key alone."""
        model.state = state
        following = sorted(
            (m for m in self.models.values() if model.key is not None and m.key == model.key),
            key=lambda m: m.seq,
        )
        for other in following:
            if other.state is JobState.WAITING and other.due and self.is_first(other):
                other.state = JobState.QUEUED
                return [other.id]
        return []

    def after_loss(self, model: Model) -> list[str]:
        model.n_lost += 1
        if model.cancelled:
            return self.end(model, JobState.CANCELLED)
        if model.n_lost >= MAX_LOST:
            return self.end(model, JobState.DEAD)
        model.state = JobState.QUEUED
        return [model.id]

    # ---- what may happen

    @rule(target=jobs, key=st.sampled_from([None, "a", "b"]), due=st.booleans())
    def submit(self, key: str | None, due: bool) -> str:
        job = add(self.store, ordering_key=key, delay_s=None if due else 3600)
        model = Model(id=job.id, seq=job.seq, key=key, due=due, state=JobState.WAITING)
        self.models[job.id] = model
        if due and self.is_first(model):
            model.state = JobState.QUEUED
        return job.id

    @rule(job_id=jobs, worker=WORKERS, expired=st.booleans())
    def claim(self, job_id: str, worker: str, expired: bool) -> None:
        model = self.models[job_id]

        _, claimed = self.store.claim(job_id, worker, EXPIRED_S if expired else LEASE_S)

        assert claimed == (model.state is JobState.QUEUED)
        if claimed:
            model.state, model.worker, model.expired = JobState.RUNNING, worker, expired
            model.attempt += 1

    @rule(
        job_id=jobs,
        back=st.integers(0, 2),
        settlement=st.sampled_from([SUCCESS, FAILURE, DEAD, retry_after(0), retry_after(3600)]),
    )
    def settle(self, job_id: str, back: int, settlement: Settlement) -> None:
        model = self.models[job_id]
        if model.state is not JobState.RUNNING or back:
            with pytest.raises(StaleAttempt):
                self.store.settle(job_id, model.attempt - back, settlement)
            return

        changed = self.store.settle(job_id, model.attempt, settlement)

        queued: list[str] = []
        if model.cancelled:
            queued = self.end(model, JobState.CANCELLED)
        elif settlement.state is JobState.WAITING:
            model.state, model.due = JobState.WAITING, settlement.retry_delay_s == 0
        else:
            queued = self.end(model, settlement.state)
            model.won = model.attempt if settlement is SUCCESS else None
        assert [job.id for job in changed.queued] == queued

    @rule()
    def lose_expired(self) -> None:
        lost = [m for m in self.models.values() if m.state is JobState.RUNNING and m.expired]

        changes = self.store.lose_expired(MAX_LOST, 100)

        assert {change.job.id for change in changes} == {model.id for model in lost}
        queued = {change.job.id: [job.id for job in change.queued] for change in changes}
        for change in changes:
            assert queued[change.job.id] == self.after_loss(self.models[change.job.id])

    @rule(job_id=jobs, worker=WORKERS)
    def lose(self, job_id: str, worker: str) -> None:
        model = self.models[job_id]

        changed = self.store.lose(job_id, worker, ERROR, MAX_LOST)

        assert (changed is not None) == (model.state is JobState.RUNNING and model.worker == worker)
        if changed is not None:
            assert [job.id for job in changed.queued] == self.after_loss(model)

    @rule(worker=WORKERS)
    def renew(self, worker: str) -> None:
        self.store.renew(worker, list(self.models), LEASE_S)

        for model in self.models.values():
            if model.worker == worker:
                model.expired = False

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        model = self.models[job_id]
        if model.state.is_final:
            with pytest.raises(JobAlreadyFinal):
                self.store.cancel(job_id, "")
            return

        changed = self.store.cancel(job_id, "")

        if model.state is JobState.RUNNING:
            model.cancelled = True
            assert not changed.queued
        else:
            assert [job.id for job in changed.queued] == self.end(model, JobState.CANCELLED)

    @rule(job_id=jobs)
    def bury(self, job_id: str) -> None:
        model = self.models[job_id]
        if model.state.is_final or model.state is JobState.RUNNING:
            with pytest.raises(JobAlreadyFinal if model.state.is_final else Conflict):
                self.store.bury(job_id, DeadReason.UNKNOWN_TASK, "nobody knows it")
            return

        changed = self.store.bury(job_id, DeadReason.UNKNOWN_TASK, "nobody knows it")

        assert [job.id for job in changed.queued] == self.end(model, JobState.DEAD)

    @rule()
    def promote(self) -> None:
        assert {job.id for job in self.store.promote_due(100)} == set(self.let_in())

    # ---- what must hold after each step

    @invariant()
    def store_agrees_with_the_model_and_follows_the_arrows(self) -> None:
        stored = {job.id: job for job in self.store.list_jobs(limit=1_000)}
        assert {i: (j.state, j.attempt) for i, j in stored.items()} == {
            model.id: (model.state, model.attempt) for model in self.models.values()
        }
        for job in stored.values():
            before = self.seen.get(job.id, job.state)
            assert job.state is before or job.state in ALLOWED[before]
            assert job.state.is_final == (job.finished_at is not None)
        self.seen = {job.id: job.state for job in stored.values()}

    @invariant()
    def one_job_of_a_key_is_in_or_running(self) -> None:
        let_in = [
            model.key
            for model in self.models.values()
            if model.key is not None and model.state in (JobState.QUEUED, JobState.RUNNING)
        ]
        assert len(let_in) == len(set(let_in))

    @invariant()
    def a_result_is_of_the_attempt_that_won_and_each_end_is_told_once(self) -> None:
        for number, job_id, state in states_told_after(self.store, self.last_told):
            self.told.setdefault(job_id, []).append(state)
            self.last_told = number
        for model in self.models.values():
            attempts = self.store.list_attempts(model.id)
            assert [attempt.number for attempt in attempts] == list(range(1, model.attempt + 1))
            n_running = sum(attempt.outcome is AttemptOutcome.RUNNING for attempt in attempts)
            assert n_running == (model.state is JobState.RUNNING)
            # Whoever knows only the events knows the job's state.
            states = self.told[model.id]
            assert states[-1] == model.state
            assert sum(state.is_final for state in states) == model.state.is_final
            if model.won is not None:
                assert self.store.get_result(model.id).attempt == model.won
        n_letters = sum(model.state is JobState.DEAD for model in self.models.values())
        assert len(self.store.list_dead_letters(limit=1_000)) == n_letters


def _run(step_count: int, **counts: int) -> None:
    run_state_machine_as_test(
        JobsOfOneStore,
        settings=settings(
            **counts,
            stateful_step_count=step_count,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.large
def test_store_follows_the_rules_in_any_interleaving() -> None:
    _run(30)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_store_follows_the_rules_in_300_long_interleavings() -> None:
    _run(60, max_examples=300)
