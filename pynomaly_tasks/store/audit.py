"""The audit log: who did what, kept as rows from the events that say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from pynomaly_tasks.store.database import Database
from pynomaly_tasks.store.inbox import mark_applied
from pynomaly_tasks.store.tables import audit_log


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One thing that somebody did."""

    event_id: str
    type: str  #: such as ``audit.job_cancelled``
    actor: str  #: who, as far as known
    subject: str  #: what it was done to
    occurred_at: datetime
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which entries; None leaves a field open."""

    type_pattern: str | None = None  #: such as ``audit.job_*``
    actor: str | None = None
    subject: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class AuditLog:
    """The rows of one database. They are only ever added."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def record(self, group: str, entries: Mapping[str, AuditEntry]) -> int:
        """Add those whose inbox key the group has not applied, with the keys, in one transaction; how many."""
        with self._db.writing() as connection:
            new = mark_applied(connection, group, entries)
            rows = [_row(entry) for key, entry in entries.items() if key in new]
            if rows:
                connection.execute(_ADD[connection.dialect.name], rows)
            return len(rows)

    def list(
        self, which: AuditFilter = AuditFilter(), *, limit: int = 50, before_id: int | None = None
    ) -> Sequence[tuple[int, AuditEntry]]:
        """Entries with their numbers, the last recorded first."""
        query = select(audit_log).order_by(audit_log.c.id.desc()).limit(limit)
        if before_id is not None:
            query = query.where(audit_log.c.id < before_id)
        if which.type_pattern is not None:
            escaped = which.type_pattern.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_")
            query = query.where(audit_log.c.type.like(escaped.replace("*", "%"), escape="\\"))
        if which.actor is not None:
            query = query.where(audit_log.c.actor == which.actor)
        if which.subject is not None:
            query = query.where(audit_log.c.subject == which.subject)
        if which.since is not None:
            query = query.where(audit_log.c.occurred_at >= which.since)
        if which.until is not None:
            query = query.where(audit_log.c.occurred_at < which.until)
        with self._db.reading() as connection:
            return [
                (
                    row.id,
                    AuditEntry(
                        event_id=row.event_id,
                        type=row.type,
                        actor=row.actor,
                        subject=row.subject,
                        occurred_at=row.occurred_at,
                        data=row.data,
                    ),
                )
                for row in connection.execute(query)
            ]


def _row(entry: AuditEntry) -> dict[str, Any]:
    return {
        "event_id": entry.event_id,
        "type": entry.type,
        # Whole in the data; cut here, where the column has a length and takes no NUL character.
        "actor": _column_text(entry.actor),
        "subject": _column_text(entry.subject),
        "occurred_at": entry.occurred_at,
        "data": dict(entry.data),
    }


def _column_text(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")[:255]


# A replay adds what is missing, and nothing twice. Asked for their numbers, all rows go in one statement,
# after each of which PostgreSQL can tell a client that stands still; within psycopg's pipeline it cannot.
_ADD = {
    dialect.__name__.rpartition(".")[2]: dialect.insert(audit_log)
    .on_conflict_do_nothing()
    .returning(audit_log.c.id)
    for dialect in (postgresql, sqlite)
}
