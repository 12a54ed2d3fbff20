"""Which events each group of consumers has applied."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from pynomaly_tasks.store.clock import server_now
from pynomaly_tasks.store.database import Database
from pynomaly_tasks.store.tables import inbox


class Inbox:
    """The rows of one database, for any group."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def missing(self, group: str, keys: Collection[str]) -> set[str]:
        """Those of the keys that the group has not applied."""
        query = select(inbox.c.event_id).where(
            inbox.c.consumer_group == group, inbox.c.event_id.in_(sorted(keys))
        )
        with self._db.reading() as connection:
            return set(keys) - set(connection.execute(query).scalars())

    def mark(self, group: str, keys: Collection[str]) -> None:
        """Note them as applied; repeating it changes nothing."""
        with self._db.writing() as connection:
            mark_applied(connection, group, keys)

    def prune(self, group: str, age_s: float, limit: int = 10_000) -> int:
        """Forget up to ``limit`` that were applied longer ago than that; how many went."""
        old = (
            select(inbox.c.event_id)
            .where(inbox.c.consumer_group == group, inbox.c.applied_at < server_now() - age_s)
            .order_by(inbox.c.applied_at)
            .limit(limit)
        )
        with self._db.writing_once() as connection:
            return connection.execute(
                delete(inbox).where(inbox.c.consumer_group == group, inbox.c.event_id.in_(old))
            ).rowcount


def mark_applied(connection: Connection, group: str, keys: Collection[str]) -> set[str]:
    """Note them as applied in the transaction of their effect; those that were not before.

    Another member that applies one of them at this moment is waited for.
    """
    if not keys:
        return set()
    # In one order, or two members that apply the same events lock each other out.
    rows = [{"consumer_group": group, "event_id": key} for key in sorted(set(keys))]
    return set(connection.execute(_MARK[connection.dialect.name], rows).scalars())


_MARK = {
    dialect.__name__.rpartition(".")[2]: dialect.insert(inbox)
    .values(applied_at=server_now())
    .on_conflict_do_nothing()
    .returning(inbox.c.event_id)
    for dialect in (postgresql, sqlite)
}
