"""The statements of the outbox relay, built once; those that a list of numbers goes into, by dialect."""

from __future__ import annotations

from typing import Any

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
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY

from pynomaly_tasks.store.clock import server_now
from pynomaly_tasks.store.tables import leases, outbox

RELAY_LEASE = "outbox"
#: A key is asked about for the first time after this long; each further failure doubles it.
_FIRST_PAUSE_S = 0.5
_MOST_DOUBLINGS = 20

_UNSENT = outbox.c.sent_at.is_(None)


def _in_list(dialect: str, name: str) -> ColumnElement[bool]:
    """The row's number is in the list: one bound value however long, so the statement is built once."""
    if dialect == "postgresql":
        return outbox.c.id == any_(bindparam(name, type_=ARRAY(BigInteger())))
    numbers = func.json_each(bindparam(name)).table_valued("value")
    return outbox.c.id.in_(select(numbers.c.value))


_text = cast(outbox.c.payload, Text)
#: Characters of a payload that is read with the others.
MAX_READ_AT_ONCE = 4_096
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
        # As it was written: one damaged row must not keep the others from being read. What is large
        # is read one by one: a thousand of them would not fit into memory.
        case((func.length(_text) <= MAX_READ_AT_ONCE, _text)).label("payload"),
    )
    .where(_UNSENT, ~_IS_HELD_BACK)
    .order_by(outbox.c.id)
    .limit(bindparam("n_rows", type_=Integer()))
)
_DIALECTS = ("sqlite", "postgresql")
# Of an outbox that fills or empties by the second PostgreSQL has no statistics: it would read and sort
# all that waits for the sake of each batch.
IN_ORDER_OF_INDEX = select(
    *(func.set_config(name, "off", True) for name in ("enable_sort", "enable_bitmapscan", "enable_seqscan"))
)
READ_PAYLOAD = select(_text).where(outbox.c.id == bindparam("number"))
LIST = dict.fromkeys(_DIALECTS, _READ)
LIST_BESIDES = {dialect: _READ.where(~_in_list(dialect, "besides")) for dialect in _DIALECTS}
MARK_SENT = {
    dialect: update(outbox)
    .where(_in_list(dialect, "numbers"), _UNSENT)
    .values(sent_at=server_now(), retry_at=None)
    for dialect in _DIALECTS
}
DELETE_SENT = {dialect: delete(outbox).where(_in_list(dialect, "numbers")) for dialect in _DIALECTS}
_doublings = case((outbox.c.n_attempts < _MOST_DOUBLINGS, outbox.c.n_attempts), else_=_MOST_DOUBLINGS)
_pause_s = _FIRST_PAUSE_S * literal(1).bitwise_lshift(_doublings)
_longest_s: ColumnElement[float] = bindparam("longest_s", type_=Double())
HOLD_BACK = (
    update(outbox)
    .where(outbox.c.id == bindparam("number"), _UNSENT)
    .values(
        n_attempts=outbox.c.n_attempts + 1,
        retry_at=server_now() + case((_pause_s < _longest_s, _pause_s), else_=_longest_s),
        last_error=bindparam("error"),
    )
)
LOCK = {
    dialect: select(
        *(column for column in outbox.c if column.name != "payload"),
        _text.label("payload"),
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


TAKE_LEASE = {"sqlite": _take(sqlite), "postgresql": _take(postgresql)}
GIVE_UP_LEASE = delete(leases).where(
    leases.c.name == bindparam("the_name"), leases.c.holder == bindparam("the_holder")
)
# Asked once for the whole statement: else PostgreSQL would look at every row that was sent.
_oldest_kept = select(server_now() - bindparam("age_s", type_=Double())).scalar_subquery()
_OLD = (
    select(outbox.c.id)
    .where(outbox.c.sent_at < _oldest_kept)
    .order_by(outbox.c.sent_at)
    .limit(bindparam("n_rows", type_=Integer()))
)
PRUNE = delete(outbox).where(outbox.c.id.in_(_OLD))
_oldest_at = select(outbox.c.created_at).where(_UNSENT).order_by(outbox.c.id).limit(1).scalar_subquery()
_holding = (_UNSENT, outbox.c.retry_at.is_not(None))
_held_keys = select(outbox.c.topic, outbox.c.key).where(*_holding).distinct().subquery()
LAG = select(
    select(func.count()).select_from(outbox).where(_UNSENT).scalar_subquery().label("n_unsent"),
    cast(server_now() - _oldest_at, Double).label("oldest_age_s"),
    select(func.count()).select_from(_held_keys).scalar_subquery().label("n_held_back"),
)
RELAY = select(leases.c.holder, leases.c.last_error).where(
    leases.c.name == RELAY_LEASE, leases.c.until_at > server_now()
)
HELD_BACK = select(outbox).where(*_holding).order_by(outbox.c.id).limit(bindparam("n_rows", type_=Integer()))
