"""Following jobs where there is no terminal: one plain line a change."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from pynomaly_tasks.cli.progress import follow, stands
from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.errors import NotFound
from pynomaly_tasks.store.store import Store
from support.stores import ERROR, FAILURE, SUCCESS, add, start


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'jobs.sqlite3'}")
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def page() -> Console:
    return Console(file=io.StringIO(), width=40)


def _text(page: Console) -> str:
    assert isinstance(page.file, io.StringIO)
    return page.file.getvalue()


def test_jobs_that_have_ended_are_told_whole_and_in_their_order(store: Store, page: Console) -> None:
    good, bad = add(store), add(store)
    store.settle(good.id, start(store, good).attempt, SUCCESS)
    store.settle(bad.id, start(store, bad).attempt, FAILURE)

    ended = follow(store, [bad.id, good.id, bad.id], page)

    assert [job.id for job in ended] == [bad.id, good.id]
    assert _text(page) == f"{bad.id} failed: {ERROR.type}: {ERROR.message}\n{good.id} succeeded\n"


def test_waiting_ends_when_the_time_is_up(store: Store, page: Console) -> None:
    job = add(store)

    [seen] = follow(store, [job.id], page, timeout_s=0.3)

    assert seen.state is JobState.QUEUED
    assert _text(page) == f"{job.id} queued\n"


def test_unknown_job_is_told_before_anything_is_shown(store: Store, page: Console) -> None:
    job = add(store)

    with pytest.raises(NotFound, match="no job nobody"):
        follow(store, [job.id, "nobody"], page)

    assert _text(page) == ""


def test_failed_step_ends_the_waiting_for_those_behind_it(store: Store, page: Console) -> None:
    job = add(store)
    store.settle(job.id, start(store, job).attempt, FAILURE)

    seen = follow(store, [job.id, "never-made"], page, labels=["detect", "report"], as_one=True)

    assert [each.state for each in seen] == [JobState.FAILED]
    assert _text(page).startswith("detect failed")


def test_running_job_that_is_cancelled_is_said_to_be_stopping(store: Store) -> None:
    job = start(store, add(store))

    assert stands(store.cancel(job.id, "").job) == "is asked to stop"
