"""What Prometheus is told of the outbox and its relay."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from pynomaly_tasks.core.outbox import OutboxLag

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)


class RelayMetrics:
    """Counters of one relay. The gauges are the outbox's, whichever relay publishes it."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.published = Counter(
            "pynomaly_outbox_published",
            "Events that the log has acknowledged; a repetition counts again.",
            ["topic"],
            registry=registry,
        )
        self.failures = Counter(
            "pynomaly_outbox_failures",
            "What kept events from being published; cause: log, store, event (held back), refused (dead-lettered).",
            ["cause"],
            registry=registry,
        )
        self.batch_s = Histogram(
            "pynomaly_outbox_batch_seconds",
            "Time from handing a batch to the log until its acknowledgement.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.unsent = Gauge("pynomaly_outbox_unsent", "Events that wait to be published.", registry=registry)
        self.oldest_s = Gauge(
            "pynomaly_outbox_oldest_seconds",
            "Age of the oldest event that waits; 0 when none does.",
            registry=registry,
        )
        self.held_back = Gauge(
            "pynomaly_outbox_held_back_keys",
            "Keys whose events wait because publishing one of them failed.",
            registry=registry,
        )
        self.leads = Gauge(
            "pynomaly_outbox_relay_leads",
            "1 in the relay that publishes, 0 in one that stands by.",
            registry=registry,
        )
        for cause in ("log", "store", "event", "refused"):
            self.failures.labels(cause)

    def set_lag(self, lag: OutboxLag) -> None:
        """Show how far publishing is behind."""
        self.unsent.set(lag.n_unsent)
        self.oldest_s.set(lag.oldest_age_s or 0.0)
        self.held_back.set(lag.n_held_back)
