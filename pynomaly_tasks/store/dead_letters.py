"""Work kept for a person: looked at, replayed or discarded."""

from __future__ import annotations

from sqlalchemy import insert, select, update

from pynomaly_tasks.core.audit_events import (
    SOMEBODY,
    Actor,
    DeadLetterDiscarded,
    DeadLetterReplayed,
    letter_name,
)
from pynomaly_tasks.core.job import DeadLetter, DeadReason
from pynomaly_tasks.errors import Conflict, NotFound
from pynomaly_tasks.store.clock import server_now
from pynomaly_tasks.store.database import Database
from pynomaly_tasks.store.outbox import event_row, write_events
from pynomaly_tasks.store.rows import dead_letter_from_row
from pynomaly_tasks.store.tables import dead_letters


class DeadLetters:
    """Reads and marks dead letters; they are written where jobs end."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def list_dead_letters(
        self,
        limit: int = 50,
        before_id: int | None = None,
        reason: DeadReason | None = None,
        open_only: bool = False,
    ) -> list[DeadLetter]:
        """Newest first; ``open_only`` leaves out the replayed and the discarded."""
        query = select(dead_letters).order_by(dead_letters.c.id.desc()).limit(limit)
        if before_id is not None:
            query = query.where(dead_letters.c.id < before_id)
        if reason is not None:
            query = query.where(dead_letters.c.reason == reason)
        if open_only:
            query = query.where(dead_letters.c.replayed_as.is_(None), dead_letters.c.discarded_at.is_(None))
        with self._db.reading() as connection:
            return [dead_letter_from_row(row) for row in connection.execute(query)]

    def get_dead_letter(self, letter_id: int) -> DeadLetter:
        """Raises NotFound."""
        with self._db.reading() as connection:
            row = connection.execute(select(dead_letters).where(dead_letters.c.id == letter_id)).one_or_none()
        if row is None:
            raise NotFound(f"there is no dead letter {letter_id}")
        return dead_letter_from_row(row)

    def add_unreadable(
        self, queue: str, kind: str | None, payload: bytes, reason: DeadReason, message: str
    ) -> None:
        """Keep a message that never became a job, with its bytes."""
        with self._db.writing() as connection:
            connection.execute(
                insert(dead_letters).values(
                    kind=kind,
                    queue=queue,
                    reason=reason,
                    message=message,
                    payload=payload,
                    n_attempts=0,
                    created_at=server_now(),
                )
            )

    def mark_replayed(self, job_id: str, replayed_as: str) -> None:
        """Note which job took the dead letter's place, where the old job has a dead letter."""
        with self._db.writing() as connection:
            connection.execute(
                update(dead_letters).where(dead_letters.c.job_id == job_id).values(replayed_as=replayed_as)
            )

    def mark_letter_replayed(self, letter: DeadLetter, replayed: DeadLetterReplayed) -> None:
        """Note what took the place of a message that never became a job, and tell who did that."""
        with self._db.writing() as connection:
            connection.execute(
                update(dead_letters)
                .where(dead_letters.c.id == letter.id)
                .values(replayed_as=replayed.replayed_as)
            )
            write_events(connection, [event_row(replayed, replayed.letter)])

    def discard(self, letter_id: int, actor: Actor = SOMEBODY) -> DeadLetter:
        """Note that a person decided against it; the row stays until retention. Raises NotFound, Conflict."""
        self.get_dead_letter(letter_id)
        with self._db.writing() as connection:
            row = connection.execute(
                update(dead_letters)
                .where(
                    dead_letters.c.id == letter_id,
                    dead_letters.c.discarded_at.is_(None),
                    dead_letters.c.replayed_as.is_(None),
                )
                .values(discarded_at=server_now())
                .returning(dead_letters)
            ).one_or_none()
            if row is None:
                raise Conflict(f"dead letter {letter_id} was discarded or replayed before")
            told = DeadLetterDiscarded(
                actor=actor.name,
                door=actor.door,
                address=actor.address,
                letter=letter_name(letter_id),
                job_id=row.job_id,
                queue=row.queue,
                reason=row.reason,
            )
            write_events(connection, [event_row(told, told.letter)])
        return dead_letter_from_row(row)
