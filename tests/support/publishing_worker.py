"""The platform's worker with a kind of job that publishes: ``celery -A support.publishing_worker worker``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from pynomaly_tasks import Platform, publish_event
from pynomaly_tasks.errors import PynomalyError
from pynomaly_tasks.events.ports import Producer, Record
from pynomaly_tasks.jobs.context import JobContext, Kind, Outcome
from pynomaly_tasks.tasks.register import job_task
from support.own_events import OrderPlaced
from workers.all import app


class _FarAway:
    """The way to a log that is far away: a child that ends at once has always something left to publish."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self.start, self.stop = producer.start, producer.stop

    async def send(self, records: Sequence[Record]) -> Sequence[PynomalyError | None]:
        await asyncio.sleep(0.5)
        return await self._producer.send(records)


_build = Platform.event_producer
Platform.event_producer = lambda self: _FarAway(_build(self))  # type: ignore[method-assign]  # for this process


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
