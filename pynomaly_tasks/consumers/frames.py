"""What people who watch are sent about an event."""

from __future__ import annotations

from typing import Any

import orjson

from pynomaly_tasks.core.event import Event
from pynomaly_tasks.realtime.relay import Frame
from pynomaly_tasks.realtime.streams import (
    ACTIVITY_STREAM,
    DASHBOARD_STREAM,
    HEALTH_STREAM,
    NOTIFICATIONS_STREAM,
)

#: Of an event of a job; what one type does not have is null.
_OF_JOB = ("job_id", "kind", "queue", "state", "attempt", "progress", "summary", "error")
#: Lists the anomalies themselves, which a dashboard that counts does not need.
_LONG = "anomalies"


def build_frame(event: Event, key: str) -> Frame:
    """The frame of an event, ready-made, for the stream that its type goes to."""
    family = event.type.partition(".")[0]
    if family == "job":
        return Frame(key=key, stream=DASHBOARD_STREAM, data=orjson.dumps(_job(event)))
    if event.type == "anomaly.detected":
        counts = {name: value for name, value in event.data.items() if name != _LONG}
        return Frame(
            key=key,
            stream=DASHBOARD_STREAM,
            data=orjson.dumps({**_head("anomalies", event), **counts, "at": event.occurred_at.timestamp()}),
        )
    kind, stream = {
        "notification": ("notification", NOTIFICATIONS_STREAM),
        "system": ("health", HEALTH_STREAM),
    }.get(family, ("activity", ACTIVITY_STREAM))
    told = {**_head(kind, event), "at": event.occurred_at.timestamp(), "data": dict(event.data)}
    return Frame(key=key, stream=stream, data=orjson.dumps(told))


def _head(kind: str, event: Event) -> dict[str, Any]:
    return {"type": kind, "event": event.type, "event_id": event.id}


def _job(event: Event) -> dict[str, Any]:
    data = event.data
    return {
        **_head("job", event),
        **{name: data.get(name) for name in _OF_JOB},
        "tags": data.get("tags", []),
        "dataset": data.get("dataset"),
        "at": event.occurred_at.timestamp(),
    }
