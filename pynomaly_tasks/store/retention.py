"""Forgetting what ended long ago."""

from __future__ import annotations

from sqlalchemy import delete, select

from pynomaly_tasks.core.job import FINAL_STATES
from pynomaly_tasks.store.clock import server_now
from pynomaly_tasks.store.database import Database
from pynomaly_tasks.store.tables import deliveries, jobs


class Retention:
    """Removes ended jobs with everything that hangs on them."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def list_ended_before(self, age_s: float, limit: int) -> list[str]:
        """Ids of jobs that ended longer ago than that."""
        query = (
            select(jobs.c.id)
            .where(jobs.c.state.in_(list(FINAL_STATES)), jobs.c.finished_at < server_now() - age_s)
            .order_by(jobs.c.finished_at)
            .limit(limit)
        )
        with self._db.reading() as connection:
            return list(connection.execute(query).scalars())

    def delete_jobs(self, job_ids: list[str]) -> int:
        """Delete ended jobs, their attempts, results, dead letters and delivery records; how many went."""
        with self._db.writing() as connection:
            connection.execute(delete(deliveries).where(deliveries.c.job_id.in_(job_ids)))
            return connection.execute(
                delete(jobs).where(jobs.c.id.in_(job_ids), jobs.c.state.in_(list(FINAL_STATES)))
            ).rowcount
