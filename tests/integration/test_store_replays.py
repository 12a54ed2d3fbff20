"""Replaying by filter, and a database of another version, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import text

from pynomaly_tasks.core.job import Job, JobState
from pynomaly_tasks.errors import InvalidSettings
from pynomaly_tasks.jobs.context import Kind, Outcome
from pynomaly_tasks.jobs.controls import Controls
from pynomaly_tasks.jobs.submit import Submitter
from pynomaly_tasks.store.reads import JobFilter
from pynomaly_tasks.store.store import Store
from support.stores import FAILURE, add, start


class Numbered(BaseModel):
    n: int


class SilentQueue:
    """A broker that nobody listens to."""

    def publish(self, jobs: Sequence[Job]) -> None: ...

    def n_ready(self, queue: str) -> int:
        return 0

    def ready_ids(self, queue: str) -> Collection[str]:
        return ()

    def hurry(self, worker: str) -> None: ...

    def report_end(self, job: Job) -> None: ...


class NoWatchers:
    def publish_progress(self, job_id: str, build: Callable[[], Mapping[str, Any]]) -> None: ...

    def finish_progress(self, job_id: str) -> None: ...

    def wake_relay(self) -> None: ...


@pytest.fixture
def controls(store: Store) -> Controls:
    kinds = {"act": Kind(name="act", queue="default", request_model=Numbered, perform=lambda *_: Outcome())}
    submitter = Submitter(
        store, SilentQueue(), NoWatchers(), kinds, None, max_request_bytes=1_000, max_time_limit_s=60
    )
    return Controls(store, submitter, NoWatchers())


def test_replaying_by_filter_twice_replays_once(store: Store, controls: Controls) -> None:
    for _ in range(3):
        job = start(store, add(store, tags=("nightly",)))
        store.settle(job.id, job.attempt, FAILURE)
    failed = JobFilter(states=[JobState.FAILED], tag="nightly")

    planned = controls.replay_where(failed, dry_run=True)
    first = controls.replay_where(failed, edits={"n": 2}, dry_run=False)
    second = controls.replay_where(failed, dry_run=False)

    assert (planned.n_matched, first.n_matched, second.n_matched) == (3, 3, 0)
    assert planned.changed == ()
    assert {store.get_job(job_id).request["n"] for job_id in first.changed} == {2}


def test_an_edit_that_does_not_fit_refuses_each_job_and_changes_nothing(
    store: Store, controls: Controls
) -> None:
    job = start(store, add(store))
    store.settle(job.id, job.attempt, FAILURE)

    bulk = controls.replay_where(JobFilter(kind="act"), edits={"n": "many"}, dry_run=False)

    assert bulk.changed == ()
    assert bulk.refused[job.id].startswith("n: ")
    assert store.count_jobs(JobFilter()) == 1


def test_database_of_another_version_is_refused_by_the_setting_that_names_it(store: Store) -> None:
    with store._db.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(InvalidSettings, match=r"^store\.url: the database is of another version"):
        store.migrate()
