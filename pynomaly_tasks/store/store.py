"""The job store as one object."""

from __future__ import annotations

from pathlib import Path

from pynomaly_tasks.errors import InvalidSettings
from pynomaly_tasks.store.audit import AuditLog
from pynomaly_tasks.store.database import Database
from pynomaly_tasks.store.dead_letters import DeadLetters
from pynomaly_tasks.store.deliveries import Deliveries
from pynomaly_tasks.store.event_transactions import EventTransactions
from pynomaly_tasks.store.inbox import Inbox
from pynomaly_tasks.store.outbox import Outbox
from pynomaly_tasks.store.reads import Reads
from pynomaly_tasks.store.relaying import Relaying
from pynomaly_tasks.store.retention import Retention
from pynomaly_tasks.store.submissions import Submissions
from pynomaly_tasks.store.transitions import Transitions

MIGRATIONS = Path(__file__).with_name("migrations")
#: The newest revision there. A process that finds it in the database need not load Alembic.
HEAD = "0002"


class Store(Submissions, Transitions, Reads, DeadLetters, Retention, Relaying, Outbox):
    """Everything that is known about jobs."""

    def __init__(self, url: str, pool_size: int = 4) -> None:
        self._db = Database(url, pool_size)
        self.deliveries = Deliveries(self._db)
        self.inbox = Inbox(self._db)
        self.audit = AuditLog(self._db)
        self.event_transactions = EventTransactions(self._db)

    def migrate(self) -> None:
        """Bring the tables to this version; safe to run from many processes at once."""
        if self._db.revision() == HEAD:
            return
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self._db.writing() as connection:
            if not self._db.is_sqlite:
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7305809)")
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                raise InvalidSettings.of(
                    "store.url",
                    f"the database is of another version than this code ({HEAD}): {error}; "
                    "run the newest version that has used it",
                ) from error

    def close(self) -> None:
        """Close this process's connections."""
        self._db.close()
