"""The platform, with one kind of job more: it does nothing, through every step that a job takes."""

import sys

from common import count
from pydantic import BaseModel, ConfigDict

from pynomaly_tasks.bootstrap import current_platform
from pynomaly_tasks.jobs.context import JobContext, Kind, Outcome
from pynomaly_tasks.tasks.register import job_task
from pynomaly_tasks.tasks.worker import build_worker


class NoopRequest(BaseModel):
    """Nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def perform(context: JobContext, request: NoopRequest, services: object) -> Outcome:
    count()
    return Outcome()


noop = job_task(Kind(name="noop", queue="default", request_model=NoopRequest, perform=perform))


def submit() -> None:
    noop.delay()


def submit_many(n_jobs: int) -> None:
    current_platform().submit_many("noop", [{}] * n_jobs)


WORKERS = [[sys.executable, "-m", "celery", "-A", "ours_peer:worker", "worker", "-c", "2", "-l", "ERROR"]]


def __getattr__(name: str) -> object:
    if name == "worker":
        return build_worker(["default"], pool="prefork")
    raise AttributeError(name)
