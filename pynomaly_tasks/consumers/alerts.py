"""The group ``alerts``: events that people want to be told of become notification jobs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from pynomaly_tasks.core.event import ANOMALY_EVENTS, AUDIT_EVENTS, JOB_EVENTS, SYSTEM_EVENTS, Event
from pynomaly_tasks.core.job import Job
from pynomaly_tasks.events.effect import inbox_key
from pynomaly_tasks.events.handlers import matches
from pynomaly_tasks.events.threads import in_thread
from pynomaly_tasks.settings.events import AlertSettings

TOPICS = (JOB_EVENTS, ANOMALY_EVENTS, SYSTEM_EVENTS, AUDIT_EVENTS)
#: On every job that this group submits: what becomes of those is told to nobody by another one.
TAG = "alert"

_MAX_BODY_VALUE = 500


class Submit(Protocol):
    """What the platform offers."""

    def __call__(self, kind: str, request: dict[str, object], **options: object) -> Job:
        """See `Platform.submit`."""


class AlertsEffect:
    """Submits one ``send_notification`` for each event that the settings name, once an event."""

    batch_size = 1

    def __init__(self, submit: Submit, settings: AlertSettings, *, own_source: str) -> None:
        self._submit = submit
        self._settings = settings
        self._own_source = own_source

    async def apply(self, events: Sequence[Event], *, replay_id: str | None = None) -> int:
        """See `Effect.apply`."""
        wanted = [event for event in events if self._is_wanted(event)]
        for event in wanted:
            key = inbox_key(event, self._own_source, replay_id)
            await in_thread(partial(self._tell, event, f"{TAG}:{key}"[:255]))
        return len(wanted)

    async def close(self) -> None:
        """Nothing is held."""

    def _is_wanted(self, event: Event) -> bool:
        settings = self._settings
        if not settings.channels or not matches(event.type, settings.event_types):
            return False
        if TAG in event.data.get("tags", ()) or event.data.get("dedup_key", "").startswith(f"{TAG}:"):
            return False  # about an alert of ours: telling of it might never end
        if event.type == "anomaly.detected":
            # A detection that found many sends several events; the first says how many.
            first = event.data.get("batch", 1) == 1
            return first and int(event.data["n_anomalies"]) >= settings.min_anomalies
        return True

    def _tell(self, event: Event, key: str) -> None:
        self._submit(
            "send_notification",
            {
                "channels": list(self._settings.channels),
                "subject": _subject(event),
                "body": _body(event),
                "dedup_key": key[:200],
            },
            idempotency_key=key,
            tags=[TAG],
            owner="alerts",
            traceparent=event.traceparent,
        )


def _subject(event: Event) -> str:
    data = event.data
    about = data.get("kind") or data.get("job_id") or event.key
    if event.type == "anomaly.detected":
        n = data["n_anomalies"]
        return _one_line(f"{n} {'anomaly' if n == 1 else 'anomalies'} in {data.get('dataset') or about}")
    return _one_line(f"{event.type}: {about}")


def _body(event: Event) -> str:
    lines = [f"{event.type} at {event.occurred_at:%Y-%m-%d %H:%M:%S} UTC", ""]
    for name, value in event.data.items():
        if name == "error" and isinstance(value, dict):
            value = f"{value.get('type')}: {value.get('message')}"
        if value not in (None, "", [], {}) and not isinstance(value, (list, dict)):
            lines.append(f"{name}: {str(value)[:_MAX_BODY_VALUE]}")
    lines.append(f"event: {event.id}")
    return "\n".join(lines)[:20_000]


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)[:200]
