"""The metrics of a process that works for the message queues."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pynomaly_tasks.messaging import QueueManager
    from pynomaly_tasks.messaging.metrics import WorkerMetrics
    from pynomaly_tasks.settings import Settings

_EVERY_S = 10.0


@asynccontextmanager
async def measured(settings: Settings, manager: QueueManager) -> AsyncIterator[WorkerMetrics]:
    """Metrics of the queues and of workers, served where the settings name a port and want these."""
    from prometheus_client import REGISTRY, CollectorRegistry

    from pynomaly_tasks.messaging.metrics import QueueMetrics, WorkerMetrics
    from pynomaly_tasks.telemetry import serve_metrics

    is_served = settings.messaging.metrics and settings.metrics.port is not None
    registry = REGISTRY if is_served else CollectorRegistry()
    workers = WorkerMetrics(registry)
    if not is_served:
        yield workers
        return
    queues = QueueMetrics(registry)
    serve_metrics(settings.metrics.host, settings.metrics.port)
    asking = asyncio.create_task(queues.keep_fresh(manager, every_s=_EVERY_S))
    try:
        yield workers
    finally:
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        queues.close()
        workers.close()
