"""What Prometheus is told of the message queues and their workers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from weakref import WeakSet

from prometheus_client import REGISTRY, CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from pynomaly_tasks.errors import NotFound, Unavailable
from pynomaly_tasks.messaging.manager import QueueManager, QueueStatistics
from pynomaly_tasks.messaging.worker import Worker, WorkerStatistics
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)

_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0)
_COUNTS = {
    "sent": "Messages that were put into the queue.",
    "delivered": "Handings to consumers; a message that comes twice counts twice.",
    "acknowledged": "Messages that were done.",
    "failed": "Messages that were given up: dead letters, where the queue keeps them.",
    "expired": "Messages that waited longer than their ttl_s.",
    "requeued": "Tries that failed and are made again.",
    "dropped": "Messages that made room for newer ones.",
    "purged": "Messages that somebody removed.",
}
_GAUGES = {
    "depth": "Messages that are not settled: waiting, delayed and held.",
    "in_flight": "Messages that a consumer holds.",
    "delayed": "Messages that are not due.",
}
_WORKER_COUNTS = {
    "timed_out": "Handlers that were interrupted at handler_timeout_s.",
    "given_back": "Messages that were taken and handed back untried.",
    "lost": "Messages whose lease ended in spite of its renewals, or whose queue was deleted.",
}


class QueueMetrics(Collector):
    """Every queue as the broker counts it: the same in each process that asks, so take the maximum, not the sum."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._found: dict[str, QueueStatistics] = {}
        self._registry = registry
        registry.register(self)

    def close(self) -> None:
        """Tell no more."""
        self._registry.unregister(self)

    async def refresh(self, manager: QueueManager) -> None:
        """Ask the broker once. Raises BrokerUnavailable."""
        found = {}
        for queue in await manager.list_queues():
            try:
                found[queue] = await manager.statistics(queue)
            except NotFound:
                continue  # it was deleted meanwhile
        self._found = found

    async def keep_fresh(self, manager: QueueManager, *, every_s: float) -> None:
        """Ask the broker again and again; what was last known is told while it is away."""
        while True:
            try:
                await self.refresh(manager)
            except Unavailable as error:
                log.warning("queue_metrics_not_refreshed", error=str(error))
            await asyncio.sleep(every_s)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """What was last asked; called by Prometheus' registry, from any thread."""
        found = self._found
        for name, text in _COUNTS.items():
            counter = CounterMetricFamily(f"pynomaly_messaging_{name}", text, labels=["queue"])
            for queue, each in found.items():
                counter.add_metric([queue], getattr(each.measure, name))
            yield counter
        handled = CounterMetricFamily(
            "pynomaly_messaging_handled_seconds",
            "From handing out to acknowledgement, of all messages that were done.",
            labels=["queue"],
        )
        oldest = GaugeMetricFamily(
            "pynomaly_messaging_oldest_seconds",
            "Age of the oldest message that is due and not settled.",
            labels=["queue"],
        )
        dead = GaugeMetricFamily(
            "pynomaly_messaging_dead_letters", "Dead letters that lie there.", labels=["queue"]
        )
        for queue, each in found.items():
            handled.add_metric([queue], each.measure.handled_s)
            if each.measure.oldest_age_s is not None:
                oldest.add_metric([queue], each.measure.oldest_age_s)
            dead.add_metric([queue], each.n_dead_letters)
        yield from (handled, oldest, dead)
        for name, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"pynomaly_messaging_{name}", text, labels=["queue"])
            for queue, each in found.items():
                if (value := getattr(each.measure, name)) is not None:
                    gauge.add_metric([queue], value)
            yield gauge


class WorkerMetrics(Collector):
    """The workers of this process; give each `observe`, and have it watched."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._workers: WeakSet[Worker] = WeakSet()
        self._registry = registry
        self._seconds = Histogram(
            "pynomaly_messaging_handler_seconds",
            "Time that a handler took; outcome: done, failed, rejected, later (given back to come again); of tasks: "
            "succeeded, failed, retry, interrupted.",
            ["queue", "outcome"],
            buckets=_SECONDS,
            registry=registry,
        )
        registry.register(self)

    def close(self) -> None:
        """Tell no more."""
        self._registry.unregister(self._seconds)
        self._registry.unregister(self)

    def observe(self, queue: str, outcome: str, seconds: float) -> None:
        """One try, as `Worker` tells of it."""
        self._seconds.labels(queue, outcome).observe(seconds)

    def watch(self, worker: Worker) -> None:
        """Add its counts to what is told."""
        self._workers.add(worker)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """What the workers count now; called by Prometheus' registry, from any thread."""
        found: list[WorkerStatistics] = [worker.statistics for worker in list(self._workers)]
        yield GaugeMetricFamily(
            "pynomaly_messaging_worker_in_hand",
            "Messages that this process holds.",
            value=sum(each.n_in_hand for each in found),
        )
        for name, text in _WORKER_COUNTS.items():
            yield CounterMetricFamily(
                f"pynomaly_messaging_worker_{name}",
                text,
                value=sum(getattr(each, f"n_{name}") for each in found),
            )
