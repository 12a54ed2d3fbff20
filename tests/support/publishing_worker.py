"""The platform's worker with a kind of job that publishes: ``celery -A support.publishing_worker worker``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from pynomaly_tasks import publish_event
from pynomaly_tasks.jobs.context import JobContext, Kind, Outcome
from pynomaly_tasks.tasks.register import job_task
from support.own_events import OrderPlaced
from workers.all import app


class PublishRequest(BaseModel):
    """How many events."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int


def _publish(context: JobContext, request: PublishRequest, services: object) -> Outcome:
    for number in range(request.n):
        publish_event(OrderPlaced(number=number), key=context.job_id, wait=False)
    return Outcome(summary={"n": request.n})


PUBLISH = Kind(name="publish", queue="default", request_model=PublishRequest, perform=_publish)
publish = job_task(PUBLISH)

__all__ = ["app", "publish"]
