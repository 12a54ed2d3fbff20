"""Consumers that write down, each time they have given a request to the pool, whether its task has begun."""

from __future__ import annotations

from typing import Any

from celery.signals import task_prerun
from celery.worker.consumer import Consumer as CelerysConsumer

from pynomaly_tasks.transport.consumer import Consumer as OurConsumer
from support.transport_app import effects

_begun: list[str] = []


@task_prerun.connect
def _note_begin(task_id: str, **kwargs: Any) -> None:
    _begun.append(task_id)


class _Noting:
    """To be put before a consumer."""

    on_task_request: Any
    pool: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        give = self.on_task_request

        def note(request: Any) -> None:
            give(request)
            has_begun = request.id in _begun  # in a pool of threads
            if hasattr(self.pool._pool, "outbound_buffer"):
                has_begun = not self.pool._pool.outbound_buffer  # it is in a child's pipe
            effects().rpush("handed", int(has_begun))

        self.on_task_request = note


class Ours(_Noting, OurConsumer):
    """The transport's."""


class Celerys(_Noting, CelerysConsumer):  # type: ignore[misc]  # Celery has no types
    """Celery's own."""
