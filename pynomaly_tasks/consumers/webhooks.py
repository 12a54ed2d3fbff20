"""The group ``webhooks``: each event becomes one delivery job for each receiver that wants it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from pynomaly_tasks.core.event import ANOMALY_EVENTS, AUDIT_EVENTS, JOB_EVENTS, SYSTEM_EVENTS, Event
from pynomaly_tasks.core.job import Job
from pynomaly_tasks.events.catalog import schema_id
from pynomaly_tasks.events.effect import inbox_key
from pynomaly_tasks.events.threads import in_thread
from pynomaly_tasks.senders.webhook import Webhooks

TOPICS = (JOB_EVENTS, ANOMALY_EVENTS, SYSTEM_EVENTS, AUDIT_EVENTS)
_KIND = "deliver_webhook"
# With a first pause of 10 s, doubling to 10 minutes: about an hour, then it is a dead letter.
_MAX_RETRIES = 10
_BACKOFF_S = 10.0


class Submit(Protocol):
    """What the platform offers."""

    def __call__(self, kind: str, request: dict[str, object], **options: object) -> Job:
        """See `Platform.submit`."""


class WebhooksEffect:
    """Submits the jobs, one for each event and receiver."""

    batch_size = 1

    def __init__(self, submit: Submit, webhooks: Webhooks, *, own_source: str) -> None:
        self._submit = submit
        self._webhooks = webhooks
        self._own_source = own_source

    async def apply(self, events: Sequence[Event], *, replay_id: str | None = None) -> int:
        """See `Effect.apply`."""
        n_new = 0
        for event in events:
            # A delivery changes its job's state, which is an event: told as well, it would never end.
            receivers = () if event.data.get("kind") == _KIND else self._webhooks.wanting(event.type)
            key = inbox_key(event, self._own_source, replay_id)
            for name in receivers:
                await in_thread(partial(self._deliver, name, event, f"webhook:{name}:{key}"))
            n_new += bool(receivers)
        return n_new

    async def close(self) -> None:
        """Nothing is held."""

    def _deliver(self, name: str, event: Event, key: str) -> None:
        self._submit(
            _KIND,
            {"endpoint": name, "event": as_json(event, self._own_source)},
            idempotency_key=_short(key),
            # What one receiver is told of one thing arrives in order; a receiver that is away holds up
            # only its own.
            ordering_key=_short(f"webhook:{name}:{event.key}"),
            owner="webhooks",
            traceparent=event.traceparent,
            max_retries=_MAX_RETRIES,
            backoff_s=_BACKOFF_S,
        )


def as_json(event: Event, own_source: str) -> Mapping[str, Any]:
    """A CloudEvent in the JSON format."""
    attributes = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source or own_source,
        "type": event.type,
        "time": event.occurred_at.isoformat(),
        "datacontenttype": "application/json",
        "dataschema": schema_id(event.type, event.version),
        "partitionkey": event.key,
        "data": dict(event.data),
    }
    return attributes if event.traceparent is None else {**attributes, "traceparent": event.traceparent}


def _short(key: str) -> str:
    if len(key) <= 255:
        return key
    from hashlib import sha256

    return f"webhook:{sha256(key.encode()).hexdigest()}"
