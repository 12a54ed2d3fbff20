"""Settings of domain events: where they go, the outbox relay, Kafka, and what is done about them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from pynomaly_tasks.settings.section import Seconds, Section


class EventSettings(Section):
    """Domain events and their consumers."""

    backend: Literal["redis_streams", "kafka"] = Field(
        "redis_streams", description="Where events go. Redis Streams need nothing more; production is Kafka."
    )
    source: str = Field(
        "/pynomaly",
        min_length=1,
        max_length=255,
        description="CloudEvents `source` of this installation: tells its events from another one's.",
    )
    max_event_kb: int = Field(512, ge=16, le=16_384, description="Largest event, in KiB.")
    keep_days: float = Field(
        7.0, gt=0, description="How long Redis Streams keep an event that every group has read."
    )
    keep_applied_days: float = Field(
        14.0, gt=0, description="How long a group remembers which events it has applied."
    )
    max_attempts: int = Field(
        5, ge=1, le=100, description="Tries of a handler that fails, before its event is a dead letter."
    )
    backoff_s: Seconds = Field(
        0.5, description="Pause before the second try; it doubles with each further one."
    )
    backoff_max_s: Seconds = Field(30.0, description="The longest such pause.")
    handler_timeout_s: Seconds = Field(
        60.0, description="A handler that has not returned by then has failed; it may name another limit."
    )
    stop_timeout_s: Seconds = Field(
        10.0, description="What a consumer gives its work in hand when it is told to stop."
    )
    consumer_batch: int = Field(500, ge=1, le=10_000, description="Events that a consumer applies at once.")


class KafkaSettings(Section):
    """Apache Kafka, where `events.backend` is `kafka`."""

    bootstrap_servers: str = Field("127.0.0.1:9092", min_length=1, description="host:port, comma separated.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How to connect."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="How to log in, with a SASL protocol."
    )
    sasl_username: str | None = Field(None, description="Asked for by the SASL protocols.")
    sasl_password: SecretStr | None = Field(None, description="Asked for by the SASL protocols.")
    ssl_ca_file: Path | None = Field(None, description="Authorities to trust. Unset: the system's.")
    compression: Literal["none", "gzip", "lz4", "zstd"] = Field("zstd", description="Of what is published.")
    timeout_s: Seconds = Field(10.0, description="An append that is not acknowledged by then is tried again.")
    topics_file: Path | None = Field(
        None,
        description="Topics with their partitions and retention. Unset: `config/kafka_topics.yaml` of this version.",
    )


class OutboxSettings(Section):
    """The relay that publishes the outbox."""

    batch_size: int = Field(1_000, ge=1, le=10_000, description="Events published at once.")
    poll_s: Seconds = Field(1.0, description="How often the relay looks by itself; commits wake it at once.")
    lease_s: Seconds = Field(10.0, description="A relay that was not heard of for this long is replaced.")
    backoff_max_s: Seconds = Field(10.0, description="The longest pause while the events have nowhere to go.")
    keep_sent_hours: float = Field(
        24.0, ge=0, description="Published events stay in the outbox for this long."
    )


class AlertSettings(Section):
    """Notifications about events."""

    channels: tuple[str, ...] = Field(
        (), description="Channels that are told, by name. JSON list; empty: no alerts."
    )
    event_types: tuple[str, ...] = Field(
        ("job.failed", "job.dead_lettered", "anomaly.detected", "drift.detected"),
        description="Which events to tell of. JSON list.",
    )
    min_anomalies: int = Field(1, ge=1, description="Detections that found fewer anomalies are not told.")


class WebhookEndpoint(Section):
    """Somebody else's address that events are posted to."""

    url: SecretStr = Field(description="https:// address.")
    secret: SecretStr = Field(
        description="Signs each post, after the Standard Webhooks convention: whsec_..."
    )
    event_types: tuple[str, ...] = Field(("*",), description="Types, or patterns such as job.*.")
    allow_private: bool = Field(
        False, description="Also an address of this network, and plain http. Loopback always may be both."
    )


class WebhookSettings(Section):
    """Signed HTTP posts of events."""

    endpoints: dict[str, WebhookEndpoint] = Field(
        default_factory=dict,
        description='Name to endpoint, as JSON: {"crm": {"url": "https://...", "secret": "whsec_..."}}.',
    )
    timeout_s: Seconds = Field(15.0, description="One post.")


class MetricsSettings(Section):
    """Prometheus metrics of the relay, the consumers and the workers of message queues, each process its own."""

    port: int | None = Field(None, ge=0, le=65_535, description="Port to serve /metrics on. Unset: none.")
    host: str = Field("127.0.0.1", description="Address to serve it on.")
