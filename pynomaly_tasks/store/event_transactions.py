"""Events of the application's own, kept together with what else its transaction writes, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from sqlalchemy import Connection as Connection
from sqlalchemy import select

from pynomaly_tasks.core.event import Event
from pynomaly_tasks.store.database import Database
from pynomaly_tasks.store.statements import ADD_EVENTS
from pynomaly_tasks.store.tables import outbox

_ADD_NUMBERED = ADD_EVENTS.returning(outbox.c.id, sort_by_parameter_order=True)


@dataclass(slots=True, kw_only=True)
class _Open:
    """The transaction of this context."""

    db: Database
    connection: Connection
    thread: int = field(default_factory=threading.get_ident)
    after_commit: list[Callable[[], None]] = field(default_factory=list)
    is_over: bool = False


_open: ContextVar[_Open | None] = ContextVar("open_transaction", default=None)


class EventTransactions:
    """Transactions that callers open, and events that they publish, inside one or outside."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction for the caller's own tables: committed at the end of the block, rolled back on an error.

        Events that are published inside, in the same thread, are written in it. The store's other
        methods have transactions of their own: on SQLite they would wait for this one until they fail.
        """
        if self.is_in_transaction():
            raise RuntimeError("a transaction is open already; publish in that one")
        with self._db.writing() as connection:
            ours = _Open(db=self._db, connection=connection)
            token = _open.set(ours)
            try:
                yield connection
            finally:
                ours.is_over = True
                _open.reset(token)
        for call in ours.after_commit:
            call()

    def is_in_transaction(self) -> bool:
        """Whether a block of `transaction` is open here. Raises RuntimeError where it is another thread's."""
        ours = _open.get()
        if ours is None or ours.db is not self._db or ours.is_over:
            return False
        if ours.thread != threading.get_ident():
            raise RuntimeError(
                "the transaction is another thread's; publish events in the thread that opened it"
            )
        return True

    def after_commit(self, call: Callable[[], None]) -> None:
        """Have this called once the open transaction is committed; never, if it is rolled back."""
        ours = _open.get()
        assert ours is not None, "asked with `is_in_transaction` before"
        ours.after_commit.append(call)

    def add_ready_events(self, events: Sequence[Event]) -> list[int]:
        """Write events to the outbox, in the open transaction or in one of their own; the rows' numbers."""
        rows = [
            {
                "event_id": event.id,
                "topic": event.topic,
                "key": event.key,
                "type": event.type,
                "version": event.version,
                "traceparent": event.traceparent,
                "payload": event.data,
            }
            for event in events
        ]
        if self.is_in_transaction():
            ours = _open.get()
            assert ours is not None, "it is open"
            return list(ours.connection.execute(_ADD_NUMBERED, rows).scalars())
        with self._db.writing() as connection:
            return list(connection.execute(_ADD_NUMBERED, rows).scalars())

    def find_unsent(self, numbers: Sequence[int]) -> set[int]:
        """Which of these rows of the outbox still wait for the relay."""
        with self._db.reading() as connection:
            return set(
                connection.execute(
                    select(outbox.c.id).where(outbox.c.id.in_(numbers), outbox.c.sent_at.is_(None))
                ).scalars()
            )
