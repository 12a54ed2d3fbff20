"""One record for each (deduplication key, channel) of a notification."""

from __future__ import annotations

from typing import Any

from sqlalchemy import update
from sqlalchemy.dialects import postgresql, sqlite

from pynomaly_tasks.store.clock import server_now
from pynomaly_tasks.store.database import Database
from pynomaly_tasks.store.tables import deliveries


class Deliveries:
    """What was sent on which channel, and how often it was tried."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def begin(self, dedup_key: str, channel: str, job_id: str) -> bool:
        """Count one more attempt; False when this key was delivered on this channel already."""
        dialect: Any = sqlite if self._db.is_sqlite else postgresql
        new = dialect.insert(deliveries).values(
            dedup_key=dedup_key, channel=channel, job_id=job_id, n_attempts=1, first_attempt_at=server_now()
        )
        upsert = new.on_conflict_do_update(
            index_elements=[deliveries.c.dedup_key, deliveries.c.channel],
            set_={"n_attempts": deliveries.c.n_attempts + 1},
            where=deliveries.c.delivered_at.is_(None),
        ).returning(deliveries.c.n_attempts)
        with self._db.writing() as connection:
            return connection.execute(upsert).one_or_none() is not None

    def finish(self, dedup_key: str, channel: str, error: str | None) -> None:
        """Write how the attempt ended; None when it was delivered."""
        with self._db.writing() as connection:
            connection.execute(
                update(deliveries)
                .where(deliveries.c.dedup_key == dedup_key, deliveries.c.channel == channel)
                .values(last_error=error, delivered_at=server_now() if error is None else None)
            )
