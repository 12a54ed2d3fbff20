"""Settings of the message queues."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from pynomaly_tasks.settings.section import Seconds, Section


class MessagingSettings(Section):
    """Message queues of `pynomaly_tasks.messaging`, which stand beside the jobs."""

    backend: Literal[
        "memory", "redis_streams", "kafka", "event_hubs", "rabbitmq", "mqtt", "sqs", "pubsub", "custom"
    ] = Field(
        "redis_streams",
        description="`memory`, `redis_streams`, `kafka`, `event_hubs`, `rabbitmq`, `mqtt`, `sqs`, `pubsub`, or `custom` with the two settings below. "
        "`pynomaly messaging capabilities` says what each can do.",
    )
    custom_module: str | None = Field(
        None, description="Module of a backend of your own, as Python imports it."
    )
    custom_class: str | None = Field(None, description="Its class; it is given the URL.")
    url: SecretStr | None = Field(
        None,
        description="Broker, as docs/messaging.md says of each. Unset, with `redis_streams`: database 4 of `redis.url`.",
    )
    namespace: str = Field(
        "pynomaly:messaging",
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9:._-]+$",
        description="Begins every key on the broker, so that installations can share one.",
    )
    connect_timeout_s: Seconds = Field(2.0, description="A connection that is not made by then fails.")
    timeout_s: Seconds = Field(10.0, description="An unanswered command fails after this long.")
    max_payload_kb: int = Field(1_024, ge=1, le=65_536, description="Largest payload, in KiB of JSON.")
    max_depth: int = Field(64, ge=1, le=200, description="Levels that a payload may nest.")
    compress_above_kb: int | None = Field(
        None, ge=0, le=65_536, description="Larger payloads are compressed, in KiB. Unset: none are."
    )
    encryption_keys: tuple[SecretStr, ...] = Field(
        (),
        description="Fernet keys, JSON list: the first encrypts payloads, all decrypt. Empty: none are encrypted.",
    )
    max_fan_out: int = Field(
        1_000, ge=1, le=100_000, description="Most subscribers that one message is copied to."
    )
    max_size: int | None = Field(
        None,
        ge=1,
        le=1_000_000_000,
        description="Most messages that a queue made without options holds; one more is refused. Unset: no limit. "
        "Nothing that is not settled is ever trimmed, so there is no other length of a stream.",
    )
    dead_letters: bool = Field(
        True,
        description="Whether a queue made without options keeps what cannot be done; off, it is dropped and counted.",
    )
    consumer_group: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Queue or subscriber that `pynomaly messaging worker` takes from without `--queues`. Processes "
        "of one name share its messages.",
    )
    metrics: bool = Field(
        True,
        description="Whether workers of the message queues tell Prometheus of them, where `metrics.port` is set.",
    )
    concurrency: int = Field(10, ge=1, le=10_000, description="Handlers that a worker runs at once.")
    batch_size: int = Field(10, ge=1, le=1_000, description="Most messages that a worker fetches at once.")
    handler_timeout_s: Seconds | None = Field(
        None, description="A handler that takes longer is interrupted. Unset: none is."
    )
