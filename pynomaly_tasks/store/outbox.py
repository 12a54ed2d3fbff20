"""Domain events, written in the transaction of the change that they report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from pynomaly_tasks.core.event_data import EventData
from pynomaly_tasks.core.ids import new_id
from pynomaly_tasks.store.database import Database
from pynomaly_tasks.store.statements import ADD_EVENT, ADD_EVENTS


class Outbox:
    """Writes events that belong to no change of the store's own."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add_events(self, events: Sequence[EventData], *, key: str, traceparent: str | None = None) -> None:
        """Have the relay publish these, in order after what was written before with this key."""
        with self._db.writing() as connection:
            write_events(connection, [event_row(each, key, traceparent) for each in events])


def event_row(data: EventData, key: str, traceparent: str | None = None) -> dict[str, Any]:
    """A row of the outbox."""
    return {
        "event_id": new_id(),
        "topic": data.topic,
        "key": key,
        "type": data.type,
        "version": data.version,
        "traceparent": traceparent,
        "payload": data,  # a dataclass, which the database's serializer writes as an object
    }


def write_events(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows of the outbox, in their order."""
    # SQLAlchemy takes a longer way for a list, even of one.
    if len(rows) == 1:
        connection.execute(ADD_EVENT, rows[0])
    elif rows:
        connection.execute(ADD_EVENTS, rows)
