"""What Prometheus is told of a group's consumer."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from pynomaly_tasks.events.ports import Partition

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0)


class ConsumerMetrics:
    """Counters of every group of one process; each group labels its own."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.read = Counter(
            "pynomaly_events_read", "Events taken from the log.", ["group", "topic"], registry=registry
        )
        self.applied = Counter(
            "pynomaly_events_applied",
            "Events that changed something; repetitions and what the group leaves alone do not count.",
            ["group", "topic"],
            registry=registry,
        )
        self.retried = Counter(
            "pynomaly_events_retried",
            "Tries that failed and were tried again; cause: handler, or a neighbour that is away.",
            ["group", "topic", "cause"],
            registry=registry,
        )
        self.dead = Counter(
            "pynomaly_events_dead_lettered",
            "Events put among the dead letters.",
            ["group", "topic", "reason"],
            registry=registry,
        )
        self.lag = Gauge(
            "pynomaly_consumer_lag",
            "Events of this member's partitions that the group has still to apply.",
            ["group", "topic", "partition"],
            registry=registry,
        )
        self.apply_s = Histogram(
            "pynomaly_events_apply_seconds",
            "Time to apply one batch.",
            ["group"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.delay_s = Histogram(
            "pynomaly_events_delay_seconds",
            "From when something happened until the group had applied its event.",
            ["group"],
            buckets=_SECONDS,
            registry=registry,
        )

    def set_lag(self, group: str, lag: Mapping[Partition, int]) -> None:
        """Replace the group's lag: partitions that went to another member are its to report."""
        gone = {
            labels
            for labels in list(self.lag._metrics)
            if labels[0] == group and Partition(labels[1], int(labels[2])) not in lag
        }
        for labels in gone:
            self.lag.remove(*labels)
        for partition, n in lag.items():
            self.lag.labels(group, partition.topic, str(partition.number)).set(n)
