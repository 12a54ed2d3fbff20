"""Settings of what people see: the web page, live updates, notifications, logs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from pynomaly_tasks.settings.section import Seconds, Section


class WebSettings(Section):
    """The web page and its JSON interface."""

    host: str = Field(
        "127.0.0.1", description="Address to listen on. Anything but loopback needs an API key."
    )
    port: int = Field(8080, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    api_key: SecretStr | None = Field(None, description="Asked for in X-API-Key or as a bearer token.")


class LiveSettings(Section):
    """Live updates to browsers, over WebSocket (`/ws`) and server-sent events (`/live`)."""

    max_clients: int = Field(
        1_000, ge=1, le=100_000, description="Clients that one web process serves at once."
    )
    max_waiting: int = Field(
        1_000, ge=10, le=100_000, description="Updates that wait for one client before it counts as slow."
    )
    heartbeat_s: Seconds = Field(15.0, description="A quiet connection is sent a sign of life this often.")
    max_message_kb: int = Field(16, ge=1, le=1_024, description="Largest message from a client, in KiB.")
    max_subscriptions: int = Field(
        100, ge=1, le=10_000, description="Filters that one client may watch with at once."
    )
    allowed_origins: tuple[str, ...] = Field(
        (),
        description="Pages on other hosts that may watch, such as https://ops.example.com. JSON list.",
    )
    stream_length: int = Field(
        1_000, ge=10, le=1_000_000, description="Entries that each live stream keeps, about."
    )
    progress_per_s: float = Field(
        5.0, gt=0, le=100, description="Progress of one job is sent at most this often a second."
    )


class NotificationSettings(Section):
    """Channels that send_notification may name."""

    channels: dict[str, SecretStr] = Field(
        default_factory=dict,
        description='Name to Apprise URL, as JSON: {"ops": "mailto://..."}. The channel "log" is always there.',
    )
    timeout_s: Seconds = Field(15.0, description="One delivery.")


class LogSettings(Section):
    """Logs of the platform's own processes."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity written.")
    format: Literal["console", "json"] = Field("console", description="For people, or for a log collector.")
