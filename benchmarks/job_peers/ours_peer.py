"""The platform, with one kind of job more: it does nothing, through every step that a job takes."""

import sys

from common import count
from pydantic import BaseModel, ConfigDict

from pynomaly_tasks import kinds
from pynomaly_tasks.jobs.context import JobContext, Kind, Outcome


class NoopRequest(BaseModel):
    """Nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def perform(context: JobContext, request: NoopRequest, services: object) -> Outcome:
    count()
    return Outcome()


kinds.KINDS = {
    **kinds.KINDS,
    "noop": Kind(name="noop", queue="default", request_model=NoopRequest, perform=perform),
}

from pynomaly_tasks.bootstrap import current_platform  # noqa: E402  reads KINDS
from pynomaly_tasks.tasks.register import job_task  # noqa: E402
from pynomaly_tasks.tasks.worker import build_worker  # noqa: E402

noop = job_task("noop")


def submit() -> None:
    noop.delay()


def submit_many(n_jobs: int) -> None:
    current_platform().submit_many("noop", [{}] * n_jobs)


WORKERS = [[sys.executable, "-m", "celery", "-A", "ours_peer:worker", "worker", "-c", "2", "-l", "ERROR"]]


def __getattr__(name: str) -> object:
    if name == "worker":
        return build_worker(["default"], pool="prefork")
    raise AttributeError(name)
