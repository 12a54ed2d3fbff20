"""The outbox as the relay sees it: what waits, what was published, what failed, and who publishes.

Order within a key. An event's number is drawn when its row is written and shows when its transaction
commits, so numbers are not in the order of commits: a place in the sequence to go on from would pass over
rows that show late. Every read therefore starts at the smallest unsent number. Within a key that is the
order of the facts, because whoever writes the later event waited for the earlier one's commit: events of a
job are written after its row was changed or locked in the same transaction, its first one after the row's
insert, events about a dead letter after its row was changed. Transactions that write events of one key at
the same time without such a lock have no order between them; of those that follow one another it holds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import insert, update

from pynomaly_tasks.core.audit_events import DeadLetterReplayed
from pynomaly_tasks.core.event import Event, OutboxEntry
from pynomaly_tasks.core.job import DeadLetter, DeadReason
from pynomaly_tasks.core.outbox import HeldBack, OutboxLag, OutboxStatus, UnreadableEntry
from pynomaly_tasks.errors import Conflict
from pynomaly_tasks.store import relay_statements as statements
from pynomaly_tasks.store.clock import server_now
from pynomaly_tasks.store.database import Database
from pynomaly_tasks.store.outbox import event_row, write_events
from pynomaly_tasks.store.tables import dead_letters, outbox

_MAX_ERROR_CHARACTERS = 1_000
_MAX_LARGE_CHARACTERS = 8 << 20


class Relaying:
    """Reads, marks and prunes the outbox."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def list_unsent(self, limit: int, besides: Sequence[int] = ()) -> list[OutboxEntry | UnreadableEntry]:
        """Events to publish, by number, without those of keys that are held back, nor those of ``besides``.

        Fewer than ``limit`` where they are large: about 8 MiB at once.
        """
        parameters: dict[str, Any] = {"n_rows": limit}
        statement = statements.LIST[self._dialect]
        if besides:
            statement = statements.LIST_BESIDES[self._dialect]
            parameters["besides"] = self._numbers(besides)
        with self._db.reading() as connection:
            if not self._db.is_sqlite:
                connection.execute(statements.IN_ORDER_OF_INDEX)
            rows = connection.execute(statement, parameters).all()
            entries: list[OutboxEntry | UnreadableEntry] = []
            n_characters = 0
            for row in rows:
                payload = row.payload
                if payload is None:
                    if n_characters > _MAX_LARGE_CHARACTERS:
                        break
                    payload = connection.execute(
                        statements.READ_PAYLOAD, {"number": row.id}
                    ).scalar_one_or_none()
                    if payload is None:
                        continue  # another relay has dealt with it meanwhile
                    n_characters += len(payload)
                entries.append(_entry(row, payload))
        return entries

    def mark_sent(self, numbers: Sequence[int], *, keep: bool = True) -> None:
        """The log has these events. Without ``keep`` they are removed at once."""
        statement = (statements.MARK_SENT if keep else statements.DELETE_SENT)[self._dialect]
        with self._db.writing_once() as connection:
            connection.execute(statement, {"numbers": self._numbers(numbers)})

    def hold_back(self, errors: Mapping[int, str], longest_s: float) -> None:
        """Publishing these failed, each for its reason: their keys wait 0.5 s, 1 s, 2 s ... up to ``longest_s``."""
        rows = [
            {"number": number, "error": _shortened(error), "longest_s": longest_s}
            for number, error in errors.items()
        ]
        with self._db.writing() as connection:
            connection.execute(statements.HOLD_BACK, rows)

    def refuse(self, reasons: Mapping[int, str]) -> int:
        """Move events that can never be published to the dead letters; their keys go on. How many moved."""
        parameters = {"numbers": self._numbers(list(reasons))}
        with self._db.writing() as connection:
            rows = connection.execute(statements.LOCK[self._dialect], parameters).all()
            if rows:
                connection.execute(
                    insert(dead_letters).values(created_at=server_now()),
                    [_letter(row, reasons[row.id]) for row in rows],
                )
                connection.execute(
                    statements.DELETE_SENT[self._dialect],
                    {"numbers": self._numbers([row.id for row in rows])},
                )
        return len(rows)

    def put_back_event(
        self, letter: DeadLetter, edits: Mapping[str, Any], replayed: DeadLetterReplayed
    ) -> None:
        """Have an event of the dead letters published after all, its data changed by ``edits``.

        It keeps its id and comes after the events of its key that were written since. An edit of None
        removes the field. Raises Conflict when that was done before.
        """
        envelope = orjson.loads(letter.payload)
        data = {**envelope["data"], **edits}
        with self._db.writing() as connection:
            put_back = connection.execute(
                update(dead_letters)
                .where(dead_letters.c.id == letter.id, dead_letters.c.replayed_as.is_(None))
                .values(replayed_as=replayed.replayed_as)
            )
            if not put_back.rowcount:
                raise Conflict(f"dead letter {letter.id} was replayed before")
            connection.execute(
                insert(outbox),
                {
                    "event_id": envelope["id"],
                    "topic": envelope["topic"],
                    "key": envelope["key"],
                    "type": envelope["type"],
                    "version": envelope["version"],
                    "traceparent": envelope["traceparent"],
                    "payload": {
                        name: value for name, value in data.items() if value is not None or name not in edits
                    },
                    "created_at": datetime.fromisoformat(envelope["occurred_at"]),
                },
            )
            write_events(connection, [event_row(replayed, replayed.letter)])

    def take_relay_lease(self, holder: str, lease_s: float, error: str | None = None) -> bool:
        """Become, or stay, the one relay that publishes; False while another one is.

        ``error`` is shown to people: why it cannot publish just now.
        """
        parameters = {
            "the_name": statements.RELAY_LEASE,
            "the_holder": holder,
            "lease_s": lease_s,
            "error": None if error is None else _shortened(error),
        }
        with self._db.writing_once() as connection:
            return (
                connection.execute(statements.TAKE_LEASE[self._dialect], parameters).one_or_none() is not None
            )

    def give_up_relay_lease(self, holder: str) -> None:
        """Let another relay publish at once, if ``holder`` is the one that does."""
        with self._db.writing_once() as connection:
            connection.execute(
                statements.GIVE_UP_LEASE, {"the_name": statements.RELAY_LEASE, "the_holder": holder}
            )

    def prune_outbox(self, age_s: float, limit: int) -> int:
        """Remove events that were published longer ago than that, the oldest first; how many went."""
        with self._db.writing_once() as connection:
            return connection.execute(statements.PRUNE, {"age_s": age_s, "n_rows": limit}).rowcount

    def get_outbox_lag(self) -> OutboxLag:
        """How far publishing is behind. Counts every unsent row: not for every moment."""
        with self._db.reading() as connection:
            counts = connection.execute(statements.LAG).one()
            relay = connection.execute(statements.RELAY).one_or_none()
        return OutboxLag(
            n_unsent=counts.n_unsent,
            oldest_age_s=None if counts.oldest_age_s is None else max(0.0, counts.oldest_age_s),
            n_held_back=counts.n_held_back,
            relay=None if relay is None else relay.holder,
            last_error=None if relay is None else relay.last_error,
        )

    def get_outbox_status(self, n_held_back: int) -> OutboxStatus:
        """The lag, and that many of the keys that are held back."""
        lag = self.get_outbox_lag()
        with self._db.reading() as connection:
            rows = connection.execute(statements.HELD_BACK, {"n_rows": n_held_back}).all()
        return OutboxStatus(
            lag=lag,
            held_back=[
                HeldBack(
                    topic=row.topic,
                    key=row.key,
                    type=row.type,
                    n_attempts=row.n_attempts,
                    retry_at=row.retry_at,
                    error=row.last_error or "",
                )
                for row in rows
            ],
        )

    @property
    def _dialect(self) -> str:
        return "sqlite" if self._db.is_sqlite else "postgresql"

    def _numbers(self, numbers: Collection[int]) -> Any:
        return orjson.dumps(list(numbers)).decode() if self._db.is_sqlite else list(numbers)


def _entry(row: Any, payload: str) -> OutboxEntry | UnreadableEntry:
    number, event_id, topic, key, type_, version, traceparent, created_at, n_attempts, _ = row
    try:
        data = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        return UnreadableEntry(number=number, topic=topic, key=key, reason=f"its payload is no JSON: {error}")
    if not isinstance(data, dict):
        return UnreadableEntry(number=number, topic=topic, key=key, reason="its payload is no JSON object")
    event = Event(
        id=event_id,
        type=type_,
        version=version,
        topic=topic,
        key=key,
        occurred_at=created_at,
        data=data,
        traceparent=traceparent,
    )
    return OutboxEntry(number=number, event=event, n_attempts=n_attempts)


def _letter(row: Any, reason: str) -> dict[str, Any]:
    try:
        data: Any = orjson.loads(row.payload)
    except orjson.JSONDecodeError:
        data = row.payload
    envelope = {
        "id": row.event_id,
        "type": row.type,
        "version": row.version,
        "topic": row.topic,
        "key": row.key,
        "occurred_at": row.created_at,
        "traceparent": row.traceparent,
        "data": data,
    }
    return {
        "kind": row.type,
        "queue": row.topic,
        "reason": DeadReason.EVENT_REFUSED,
        "message": _shortened(reason),
        "payload": orjson.dumps(envelope),
        "n_attempts": row.n_attempts + 1,
    }


def _shortened(error: str) -> str:
    """PostgreSQL keeps no NUL and no half of a pair; an error may quote the whole event."""
    return error[:_MAX_ERROR_CHARACTERS].replace("\0", "").encode(errors="replace").decode().strip()
