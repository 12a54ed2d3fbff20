"""The group ``audit``: what people did becomes rows of the audit log."""

from __future__ import annotations

from collections.abc import Sequence

from pynomaly_tasks.core.event import AUDIT_EVENTS, Event
from pynomaly_tasks.events.catalog import CATALOG
from pynomaly_tasks.events.effect import inbox_key
from pynomaly_tasks.events.threads import in_thread
from pynomaly_tasks.store.audit import AuditEntry, AuditLog

GROUP = "audit"
TOPICS = (AUDIT_EVENTS,)


class AuditEffect:
    """Writes a row for each event, in one transaction with the mark that it was applied."""

    def __init__(self, audit_log: AuditLog, *, own_source: str, batch_size: int) -> None:
        self.batch_size = batch_size
        self._log = audit_log
        self._own_source = own_source

    async def apply(self, events: Sequence[Event], *, replay_id: str | None = None) -> int:
        """See `Effect.apply`."""
        entries = {
            inbox_key(event, self._own_source, replay_id): _entry(event, inbox_key(event, self._own_source))
            for event in events
        }
        return await in_thread(lambda: self._log.record(GROUP, entries))

    async def close(self) -> None:
        """Nothing is held."""


def _entry(event: Event, event_id: str) -> AuditEntry:
    event_type = CATALOG.find(event.type)
    field = event_type.subject_field if event_type is not None else None
    subject = event.data.get(field) if field is not None else None
    return AuditEntry(
        event_id=event_id,
        type=event.type,
        actor=str(event.data.get("actor") or ""),
        subject=str(subject or event.key),
        occurred_at=event.occurred_at,
        data=event.data,
    )
