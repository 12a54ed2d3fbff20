"""One record for each (deduplication key, channel) of a notification."""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_, exists, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.errors import DeliveryFailed
from pynomaly_tasks.store.clock import server_now
from pynomaly_tasks.store.database import Database
from pynomaly_tasks.store.tables import deliveries, jobs


class Deliveries:
    """What was sent on which channel, and how often it was tried."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def begin(self, dedup_key: str, channel: str, job_id: str) -> bool:
        """Count one more attempt; False when this key was delivered on this channel already.

        Raises DeliveryFailed while another running job delivers it: only then is it known whether it went.
        """
        dialect: Any = sqlite if self._db.is_sqlite else postgresql
        new = dialect.insert(deliveries).values(
            dedup_key=dedup_key, channel=channel, job_id=job_id, n_attempts=1, first_attempt_at=server_now()
        )
        upsert = new.on_conflict_do_update(
            index_elements=[deliveries.c.dedup_key, deliveries.c.channel],
            set_={"n_attempts": deliveries.c.n_attempts + 1, "job_id": job_id, "last_error": None},
            where=and_(
                deliveries.c.delivered_at.is_(None),
                or_(
                    deliveries.c.job_id == job_id,
                    deliveries.c.last_error.is_not(None),
                    ~exists().where(jobs.c.id == deliveries.c.job_id, jobs.c.state == JobState.RUNNING),
                ),
            ),
        ).returning(deliveries.c.n_attempts)
        this = and_(deliveries.c.dedup_key == dedup_key, deliveries.c.channel == channel)
        with self._db.writing() as connection:
            if connection.execute(upsert).one_or_none() is not None:
                return True
            row = connection.execute(select(deliveries).where(this)).one()
        if row.delivered_at is None:
            raise DeliveryFailed(f"{channel}: the job {row.job_id} is sending {dedup_key} there just now")
        return False

    def finish(self, dedup_key: str, channel: str, error: str | None) -> None:
        """Write how the attempt ended; None when it was delivered."""
        with self._db.writing_once() as connection:
            connection.execute(
                update(deliveries)
                .where(deliveries.c.dedup_key == dedup_key, deliveries.c.channel == channel)
                .values(last_error=error, delivered_at=server_now() if error is None else None)
            )
