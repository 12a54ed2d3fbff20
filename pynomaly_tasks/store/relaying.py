"""The outbox as the relay sees it: what waits, what was published, what failed, and who publishes.

Order within a key. An event's number is drawn when its row is written and shows when its transaction
commits, so numbers are not in the order of commits: a place in the sequence to go on from would pass over
rows that show late. Every read therefore starts at the smallest unsent number. Within a key that is the
order of the facts, because whoever writes the later event saw the earlier one committed: events of a job are
written after its row was locked or changed in the same transaction, its first one with the row's insert.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Double,
    Integer,
    Text,
    any_,
    bindparam,
    case,
    cast,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY

from pynomaly_tasks.core.event import Event, OutboxEntry
from pynomaly_tasks.core.job import DeadReason
from pynomaly_tasks.core.outbox import HeldBack, OutboxLag, OutboxStatus, UnreadableEntry
from pynomaly_tasks.store.clock import server_now
from pynomaly_tasks.store.database import Database
from pynomaly_tasks.store.tables import dead_letters, leases, outbox

RELAY_LEASE = "outbox"
#: A key is asked about for the first time after this long; each further failure doubles it.
_FIRST_PAUSE_S = 0.5
_MOST_DOUBLINGS = 20
_MAX_ERROR_CHARACTERS = 1_000

_UNSENT = outbox.c.sent_at.is_(None)


def _in_list(dialect: str, name: str) -> ColumnElement[bool]:
    """The row's number is in the list: one bound value however long, so the statement is built once."""
    if dialect == "postgresql":
        return outbox.c.id == any_(bindparam(name, type_=ARRAY(BigInteger())))
    numbers = func.json_each(bindparam(name)).table_valued("value")
    return outbox.c.id.in_(select(numbers.c.value))


_failed = outbox.alias("failed")
_IS_HELD_BACK = (
    select(literal(1))
    .where(
        _failed.c.sent_at.is_(None),
        _failed.c.retry_at.is_not(None),
        _failed.c.retry_at > server_now(),
        _failed.c.topic == outbox.c.topic,
        _failed.c.key == outbox.c.key,
    )
    .exists()
)
_READ = (
    select(
        outbox.c.id,
        outbox.c.event_id,
        outbox.c.topic,
        outbox.c.key,
        outbox.c.type,
        outbox.c.version,
        outbox.c.traceparent,
        outbox.c.created_at,
        outbox.c.n_attempts,
        # As it was written: one damaged row must not keep the others from being read.
        cast(outbox.c.payload, Text).label("payload"),
    )
    .where(_UNSENT, ~_IS_HELD_BACK)
    .order_by(outbox.c.id)
    .limit(bindparam("n_rows", type_=Integer()))
)
_DIALECTS = ("sqlite", "postgresql")
# Of an outbox that fills or empties by the second PostgreSQL has no statistics: it would read and sort
# all that waits for the sake of each batch.
_IN_ORDER_OF_INDEX = select(
    *(func.set_config(name, "off", True) for name in ("enable_sort", "enable_bitmapscan", "enable_seqscan"))
)
_LIST = dict.fromkeys(_DIALECTS, _READ)
_LIST_BESIDES = {dialect: _READ.where(~_in_list(dialect, "besides")) for dialect in _DIALECTS}
_MARK_SENT = {
    dialect: update(outbox)
    .where(_in_list(dialect, "numbers"), _UNSENT)
    .values(sent_at=server_now(), retry_at=None)
    for dialect in _DIALECTS
}
_DELETE_SENT = {dialect: delete(outbox).where(_in_list(dialect, "numbers")) for dialect in _DIALECTS}
_doublings = case((outbox.c.n_attempts < _MOST_DOUBLINGS, outbox.c.n_attempts), else_=_MOST_DOUBLINGS)
_pause_s = _FIRST_PAUSE_S * literal(1).bitwise_lshift(_doublings)
_longest_s: ColumnElement[float] = bindparam("longest_s", type_=Double())
_HOLD_BACK = (
    update(outbox)
    .where(outbox.c.id == bindparam("number"), _UNSENT)
    .values(
        n_attempts=outbox.c.n_attempts + 1,
        retry_at=server_now() + case((_pause_s < _longest_s, _pause_s), else_=_longest_s),
        last_error=bindparam("error"),
    )
)
_LOCK = {
    dialect: select(
        *(column for column in outbox.c if column.name != "payload"),
        cast(outbox.c.payload, Text).label("payload"),
    )
    .where(_in_list(dialect, "numbers"), _UNSENT)
    .order_by(outbox.c.id)
    .with_for_update()
    for dialect in _DIALECTS
}


def _take(dialect: Any) -> Any:
    lasts_until = server_now() + bindparam("lease_s", type_=Double())
    new = dialect.insert(leases).values(
        name=bindparam("the_name"),
        holder=bindparam("the_holder"),
        until_at=lasts_until,
        last_error=bindparam("error"),
    )
    return new.on_conflict_do_update(
        index_elements=[leases.c.name],
        set_={
            "holder": new.excluded.holder,
            "until_at": new.excluded.until_at,
            "last_error": new.excluded.last_error,
        },
        where=or_(leases.c.holder == new.excluded.holder, leases.c.until_at <= server_now()),
    ).returning(leases.c.holder)


_TAKE_LEASE = {"sqlite": _take(sqlite), "postgresql": _take(postgresql)}
_GIVE_UP_LEASE = delete(leases).where(
    leases.c.name == bindparam("the_name"), leases.c.holder == bindparam("the_holder")
)
_OLD = (
    select(outbox.c.id)
    .where(outbox.c.sent_at < server_now() - bindparam("age_s", type_=Double()))
    .order_by(outbox.c.sent_at)
    .limit(bindparam("n_rows", type_=Integer()))
)
_PRUNE = delete(outbox).where(outbox.c.id.in_(_OLD))
_oldest_at = select(outbox.c.created_at).where(_UNSENT).order_by(outbox.c.id).limit(1).scalar_subquery()
_holding = (_UNSENT, outbox.c.retry_at.is_not(None))
_held_keys = select(outbox.c.topic, outbox.c.key).where(*_holding).distinct().subquery()
_LAG = select(
    select(func.count()).select_from(outbox).where(_UNSENT).scalar_subquery().label("n_unsent"),
    cast(server_now() - _oldest_at, Double).label("oldest_age_s"),
    select(func.count()).select_from(_held_keys).scalar_subquery().label("n_held_back"),
)
_RELAY = select(leases.c.holder, leases.c.last_error).where(
    leases.c.name == RELAY_LEASE, leases.c.until_at > server_now()
)
_HELD_BACK = select(outbox).where(*_holding).order_by(outbox.c.id).limit(bindparam("n_rows", type_=Integer()))


class Relaying:
    """Reads, marks and prunes the outbox."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def list_unsent(self, limit: int, besides: Sequence[int] = ()) -> list[OutboxEntry | UnreadableEntry]:
        """Events to publish, by number, without those of keys that are held back, nor those of ``besides``."""
        parameters: dict[str, Any] = {"n_rows": limit}
        statements = _LIST
        if besides:
            statements = _LIST_BESIDES
            parameters["besides"] = self._numbers(besides)
        with self._db.reading() as connection:
            if not self._db.is_sqlite:
                connection.execute(_IN_ORDER_OF_INDEX)
            rows = connection.execute(statements[self._dialect], parameters).all()
        return [_entry(row) for row in rows]

    def mark_sent(self, numbers: Sequence[int], *, keep: bool = True) -> None:
        """The log has these events. Without ``keep`` they are removed at once."""
        statement = (_MARK_SENT if keep else _DELETE_SENT)[self._dialect]
        with self._db.writing() as connection:
            connection.execute(statement, {"numbers": self._numbers(numbers)})

    def hold_back(self, errors: Mapping[int, str], longest_s: float) -> None:
        """Publishing these failed, each for its reason: their keys wait 0.5 s, 1 s, 2 s ... up to ``longest_s``."""
        rows = [
            {"number": number, "error": _shortened(error), "longest_s": longest_s}
            for number, error in errors.items()
        ]
        with self._db.writing() as connection:
            connection.execute(_HOLD_BACK, rows)

    def refuse(self, reasons: Mapping[int, str]) -> int:
        """Move events that can never be published to the dead letters; their keys go on. How many moved."""
        parameters = {"numbers": self._numbers(list(reasons))}
        with self._db.writing() as connection:
            rows = connection.execute(_LOCK[self._dialect], parameters).all()
            if rows:
                connection.execute(
                    insert(dead_letters).values(created_at=server_now()),
                    [_letter(row, reasons[row.id]) for row in rows],
                )
                connection.execute(
                    _DELETE_SENT[self._dialect], {"numbers": self._numbers([row.id for row in rows])}
                )
        return len(rows)

    def take_relay_lease(self, holder: str, lease_s: float, error: str | None = None) -> bool:
        """Become, or stay, the one relay that publishes; False while another one is.

        ``error`` is shown to people: why it cannot publish just now.
        """
        parameters = {
            "the_name": RELAY_LEASE,
            "the_holder": holder,
            "lease_s": lease_s,
            "error": None if error is None else _shortened(error),
        }
        with self._db.writing() as connection:
            return connection.execute(_TAKE_LEASE[self._dialect], parameters).one_or_none() is not None

    def give_up_relay_lease(self, holder: str) -> None:
        """Let another relay publish at once, if ``holder`` is the one that does."""
        with self._db.writing() as connection:
            connection.execute(_GIVE_UP_LEASE, {"the_name": RELAY_LEASE, "the_holder": holder})

    def prune_outbox(self, age_s: float, limit: int) -> int:
        """Remove events that were published longer ago than that, the oldest first; how many went."""
        with self._db.writing() as connection:
            return connection.execute(_PRUNE, {"age_s": age_s, "n_rows": limit}).rowcount

    def get_outbox_lag(self) -> OutboxLag:
        """How far publishing is behind. Counts every unsent row: not for every moment."""
        with self._db.reading() as connection:
            counts = connection.execute(_LAG).one()
            relay = connection.execute(_RELAY).one_or_none()
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
            rows = connection.execute(_HELD_BACK, {"n_rows": n_held_back}).all()
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


def _entry(row: Any) -> OutboxEntry | UnreadableEntry:
    number, event_id, topic, key, type_, version, traceparent, created_at, n_attempts, payload = row
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
