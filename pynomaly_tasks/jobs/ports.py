"""What the engine needs from its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pynomaly_tasks.core.job import Job


class Queue(Protocol):
    """The broker. A message is a doorbell: losing one delays its job, repeating one does nothing."""

    def publish(self, jobs: Sequence[Job]) -> None:
        """Ring for each job, in order. Raises BrokerUnavailable; some may have been sent then."""

    def n_ready(self, queue: str) -> int:
        """Messages waiting in the queue. Raises BrokerUnavailable."""

    def ready_ids(self, queue: str) -> Collection[str]:
        """Ids of the jobs whose message waits in the queue. Raises BrokerUnavailable."""

    def hurry(self, worker: str) -> None:
        """Have a worker look at once whether its jobs were cancelled. Raises BrokerUnavailable."""

    def report_end(self, job: Job) -> None:
        """Tell Celery of a job that ended outside a delivery, so that ``.get()`` returns. Raises BrokerUnavailable."""


class Stream(Protocol):
    """Live updates for people watching; best effort. No call raises, none waits long."""

    def publish_progress(self, job_id: str, build: Callable[[], Mapping[str, Any]]) -> None:
        """Send what ``build()`` makes, or a later one instead: not all, but the latest always."""

    def finish_progress(self, job_id: str) -> None:
        """Send the latest progress of the job, if it was not yet: its end comes next."""


class Bell(Protocol):
    """Wakes the relay, which looks by itself now and then; best effort."""

    def ring(self) -> None:
        """Have it look at once; never raises, never waits long."""


class Updates(Stream, Protocol):
    """What others are told of a job at once; best effort."""

    def wake_relay(self) -> None:
        """Events were committed: have them published at once. Never raises, never waits long."""


class ArtifactWriter(Protocol):
    """Where the files of a job go."""

    def put(self, job_id: str, attempt: int, name: str, path: Path) -> str:
        """Keep the file; its key."""

    def delete_job(self, job_id: str) -> None:
        """Remove all files of the job."""
