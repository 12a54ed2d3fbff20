"""What ``.get()`` raises is as near to the job's error as can be."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from pynomaly_tasks.core.job import Job, JobError, JobState
from pynomaly_tasks.errors import InvalidDataset, JobFailed, TimeLimitExceeded
from pynomaly_tasks.queueing.failure import failure_of


def _job(error: JobError | None, state: JobState = JobState.FAILED) -> Job:
    values: dict[str, Any] = dict.fromkeys((field.name for field in fields(Job)), None)
    return Job(**{**values, "id": "j", "state": state, "error": error})


def test_error_of_the_attempt_itself_comes_first() -> None:
    raised = KeyError("x")

    assert failure_of(_job(JobError(type="KeyError", message="'x'")), raised) is raised


def test_signal_at_the_time_limit_shows_as_the_time_limit() -> None:
    stored = JobError(type="TimeLimitExceeded", message="stopped at its time limit (5 s)")

    shown = failure_of(_job(stored), RuntimeError("SoftTimeLimitExceeded()"))

    assert isinstance(shown, TimeLimitExceeded)
    assert str(shown) == stored.message


def test_our_own_error_is_raised_again_from_its_words() -> None:
    shown = failure_of(_job(JobError(type="InvalidDataset", message="dataset: 'a.csv' is empty")))

    assert isinstance(shown, InvalidDataset)
    assert str(shown) == "dataset: 'a.csv' is empty"


@pytest.mark.parametrize("name", ["ZeroDivisionError", "FieldProblem", "annotations", "dataclass", "Self"])
def test_other_errors_are_named_in_the_message(name: str) -> None:
    shown = failure_of(_job(JobError(type=name, message="words")))

    assert type(shown) is JobFailed
    assert str(shown) == f"{name}: words"


def test_job_without_an_error_says_its_state() -> None:
    assert str(failure_of(_job(None, JobState.DEAD))) == "job j is dead"
