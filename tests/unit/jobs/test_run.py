"""One attempt from claim to end, on SQLite, with the worker's neighbours at hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from pynomaly_tasks.core.job import DeadReason, Job, JobState
from pynomaly_tasks.errors import BrokerUnavailable, NotFound, StoreUnavailable
from pynomaly_tasks.jobs.context import JobContext, Kind, Outcome
from pynomaly_tasks.jobs.rescue import Rescuer
from pynomaly_tasks.jobs.run import Runner
from pynomaly_tasks.jobs.submission import Submission
from pynomaly_tasks.jobs.submit import Submitter
from pynomaly_tasks.store.artifacts import ArtifactStore
from pynomaly_tasks.store.store import Store
from support.stores import ERROR, EXPIRED_S, add, start
from support.waiting import wait_until


class ListQueue:
    """A broker in a list; may be down."""

    def __init__(self) -> None:
        self.rung: list[str] = []
        self.is_down = False
        self.takes_s = 0.0  #: to be read
        self.reads: list[tuple[float, float]] = []  #: from and to, by the monotonic clock

    def publish(self, jobs: Sequence[Job]) -> None:
        self._check()
        self.rung += [job.id for job in jobs]

    def n_ready(self, queue: str) -> int:
        self._check()
        return len(self.rung)

    def ready_ids(self, queue: str) -> Collection[str]:
        self._check()
        started_s = time.monotonic()
        threading.Event().wait(self.takes_s)
        self.reads.append((started_s, time.monotonic()))
        return set(self.rung)

    def hurry(self, worker: str) -> None:
        self._check()

    def report_end(self, job: Job) -> None:
        self._check()

    def _check(self) -> None:
        if self.is_down:
            raise BrokerUnavailable("it is down")


class ListUpdates:
    """Live updates in a list."""

    def __init__(self) -> None:
        self.progress: list[Any] = []
        self.n_wakes = 0

    def publish_progress(self, job_id: str, build: Callable[[], Mapping[str, Any]]) -> None:
        self.progress.append(build()["progress"])

    def finish_progress(self, job_id: str) -> None:
        self.progress.append("finished")

    def wake_relay(self) -> None:
        self.n_wakes += 1


class Anything(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class Bench:
    """A runner, a submitter and a rescuer around one store."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(f"sqlite:///{directory / 'jobs.sqlite3'}")
        self.store.migrate()
        self.queue, self.updates = ListQueue(), ListUpdates()
        self.scratch = directory / "scratch"
        self.artifacts = ArtifactStore(str(directory / "artifacts"))
        self.work: Any = lambda context, request, services: Outcome()
        kinds = {"act": Kind(name="act", queue="default", request_model=Anything, perform=self._perform)}
        self.submitter = Submitter(
            self.store,
            self.queue,
            self.updates,
            kinds,
            None,
            max_request_bytes=1_000,
            max_time_limit_s=60,
        )
        self.runner = Runner(
            self.store,
            self.submitter,
            self.updates,
            self.artifacts,
            kinds,
            None,
            lease_s=60,
            write_every_s=0,
            time_limit_s=60,
            scratch_root=self.scratch,
        )
        self.rescuer = Rescuer(
            self.store,
            self.queue,
            self.submitter,
            self.updates,
            max_lost_attempts=3,
            lost_message_after_s=0,
            lease_s=60,
        )

    def _perform(self, context: JobContext, request: Any, services: Any) -> Outcome:
        outcome: Outcome = self.work(context, request, services)
        return outcome


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.store.close()


def test_job_that_asks_for_no_scratch_directory_gets_none(bench: Bench) -> None:
    made: list[bool] = []

    def work(context: JobContext, request: Any, services: Any) -> Outcome:
        made.append(bench.scratch.exists())
        return Outcome()

    bench.work = work
    finished = bench.runner.run(add(bench.store).id, "w1")

    assert finished.job.state is JobState.SUCCEEDED
    assert made == [False]


def test_files_of_a_succeeded_job_are_kept_and_its_scratch_is_removed(bench: Bench) -> None:
    def work(context: JobContext, request: Any, services: Any) -> Outcome:
        path = context.scratch / "x"
        path.write_bytes(b"content")
        return Outcome(anomalies_found=3, files={"x.bin": path})

    bench.work = work
    finished = bench.runner.run(add(bench.store).id, "w1")

    assert finished.job.state is JobState.SUCCEEDED
    assert finished.job.summary is not None
    assert finished.job.summary["anomalies_found"] == 3
    key = bench.store.get_result(finished.job.id).artifacts["x.bin"]
    assert bench.artifacts.read_bytes(key) == b"content"
    assert list(bench.scratch.iterdir()) == []
    assert bench.updates.n_wakes == 2


def test_progress_is_told_between_two_writes_too_and_the_last_of_it_before_the_end(bench: Bench) -> None:
    def work(context: JobContext, request: Any, services: Any) -> Outcome:
        for number in range(3):
            context.progress(number, 3, "counting")
        return Outcome()

    bench.work = work
    finished = bench.runner.run(add(bench.store).id, "w1")

    told = [{"current": number, "total": 3, "status": "counting"} for number in range(3)]
    assert finished.job.state is JobState.SUCCEEDED
    assert bench.updates.progress == [*told, "finished"]


def test_repeated_delivery_of_a_running_or_ended_job_does_nothing(bench: Bench) -> None:
    running, ended = start(bench.store, add(bench.store)), add(bench.store)
    bench.runner.run(ended.id, "w1")

    again = [bench.runner.run(job.id, "w2") for job in (running, ended)]

    assert [(finished.ran, finished.job.state) for finished in again] == [
        (False, JobState.RUNNING),
        (False, JobState.SUCCEEDED),
    ]
    assert len(bench.store.list_attempts(ended.id)) == 1


def test_delivery_of_an_unknown_job_is_not_found(bench: Bench) -> None:
    with pytest.raises(NotFound):
        bench.runner.run("nobody", "w1")


def test_result_of_an_attempt_that_lost_its_job_is_refused(bench: Bench) -> None:
    def lose_it(context: JobContext, request: Any, services: Any) -> Outcome:
        bench.store.lose(context.job_id, "w1", ERROR, 3)
        start(bench.store, bench.store.get_job(context.job_id), "w2")
        return Outcome()

    bench.work = lose_it
    finished = bench.runner.run(add(bench.store).id, "w1")

    assert (finished.ran, finished.job.state, finished.job.worker) == (False, JobState.RUNNING, "w2")
    with pytest.raises(NotFound):
        bench.store.get_result(finished.job.id)


def test_checkpoint_stops_an_attempt_that_lost_its_job(bench: Bench) -> None:
    reached = []

    def lose_it(context: JobContext, request: Any, services: Any) -> Outcome:
        bench.store.lose(context.job_id, "w1", ERROR, 3)
        context.checkpoint()
        reached.append(True)
        return Outcome()

    bench.work = lose_it
    finished = bench.runner.run(add(bench.store).id, "w1")

    assert (finished.ran, finished.job.state) == (False, JobState.QUEUED)
    assert reached == []


def test_kind_that_is_not_known_here_is_a_dead_letter(bench: Bench) -> None:
    finished = bench.runner.run(add(bench.store, kind="from the future").id, "w1")

    assert (finished.job.state, finished.job.dead_reason) == (JobState.DEAD, DeadReason.UNKNOWN_TASK)


def test_end_of_a_job_rings_for_the_next_of_its_key(bench: Bench) -> None:
    first, second = (add(bench.store, ordering_key="k") for _ in range(2))

    bench.runner.run(first.id, "w1")

    assert bench.queue.rung == [second.id]


def test_store_that_is_away_for_a_moment_costs_no_work(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    settle, n_calls = bench.store.settle, []

    def away_twice(*arguments: Any) -> Any:
        n_calls.append(1)
        if len(n_calls) <= 2:
            raise StoreUnavailable("it restarts")
        return settle(*arguments)

    monkeypatch.setattr(bench.store, "settle", away_twice)
    finished = bench.runner.run(add(bench.store).id, "w1")

    assert (finished.job.state, len(n_calls)) == (JobState.SUCCEEDED, 3)


def test_job_that_was_not_rung_for_is_rung_for_by_the_first_rescue_after(bench: Bench) -> None:
    bench.queue.is_down = True
    [job] = bench.submitter.submit_many([Submission(kind="act", request={})])
    with pytest.raises(BrokerUnavailable):
        bench.rescuer.rescue()

    bench.queue.is_down = False
    rescued = bench.rescuer.rescue()

    assert rescued.n_republished == 1
    assert bench.queue.rung == [job.id]


def test_leases_are_not_trusted_right_after_an_outage_of_the_store(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start(bench.store, add(bench.store), "w1", EXPIRED_S)
    with monkeypatch.context() as outage:
        outage.setattr(bench.store, "has_due_jobs", _away)
        with pytest.raises(StoreUnavailable):
            bench.rescuer.promote()

    assert bench.rescuer.rescue().n_lost_attempts == 0
    assert bench.store.get_job(job.id).state is JobState.RUNNING


def _away() -> bool:
    raise StoreUnavailable("it restarts")


def test_rescue_spends_little_of_its_time_on_reading_a_long_queue(bench: Bench) -> None:
    bench.queue.takes_s = 0.02
    jobs = [add(bench.store) for _ in range(3)]
    bench.store.mark_published([job.id for job in jobs])

    def read_thrice() -> bool:
        bench.rescuer.rescue()
        bench.queue.rung = [jobs[0].id]  # two messages get lost, again and again
        return len(bench.queue.reads) >= 3

    wait_until(read_thrice, 30.0, "three reads of the queue")

    for (started_s, ended_s), (next_s, _) in pairwise(bench.queue.reads):
        assert (ended_s - started_s) / (next_s - started_s) < 0.11
