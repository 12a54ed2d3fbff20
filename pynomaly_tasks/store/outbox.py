"""Domain events, written in the transaction of the change that they report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from pynomaly_tasks.core.event import JOB_EVENTS
from pynomaly_tasks.core.ids import new_id
from pynomaly_tasks.core.job import Json
from pynomaly_tasks.store.statements import ADD_EVENT, ADD_EVENTS


def add_job_event(connection: Connection, job_id: str, event: str, payload: Json) -> None:
    """Add ``job.<event>``, keyed by the job so that its events stay in order."""
    add_job_events(connection, {job_id: payload}, event)


def add_job_events(connection: Connection, payloads: Mapping[str, Json], event: str) -> None:
    """The same event for many jobs, by job id."""
    rows: list[dict[str, Any]] = [
        {
            "event_id": new_id(),
            "topic": JOB_EVENTS,
            "key": job_id,
            "type": f"job.{event}",
            "payload": {"job_id": job_id, **payload},
        }
        for job_id, payload in payloads.items()
    ]
    if len(rows) == 1:
        connection.execute(ADD_EVENT, rows[0])
    elif rows:
        connection.execute(ADD_EVENTS, rows)
