"""What a channel was once given, of a broker that keeps it: for the capability replay."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime

from pynomaly_tasks.messaging.backend import Stored
from pynomaly_tasks.messaging.emulation.head import read_head
from pynomaly_tasks.messaging.plain_broker import KeepsSettled, Past

_PAGE = 500


async def read_back(
    broker: KeepsSettled, lanes: Sequence[str], since: datetime | int
) -> AsyncIterator[Stored]:
    """Each message of the lanes once that has no unsettled copy in any of them.

    An offset is one of the first lane; the others are read from that item's time on.
    """
    starts = await _starts(broker, lanes, since)
    ends: dict[str, str] = {}
    seen: set[str] = set()
    for lane, start in starts.items():
        async for past in _read(broker, lane, start):
            ends[lane] = past.key
            if not past.is_settled:
                # Such as one that waits to be tried again: its first copy is settled.
                seen.add(read_head(past.data)[0].message_id)
    for lane, end in ends.items():
        async for past in _read(broker, lane, starts[lane], end):
            head, body = read_head(past.data)
            if past.is_settled and head.message_id not in seen:
                seen.add(head.message_id)
                yield Stored(key=past.key, message_id=head.message_id, body=body)


async def _starts(
    broker: KeepsSettled, lanes: Sequence[str], since: datetime | int
) -> Mapping[str, datetime | int]:
    if isinstance(since, datetime):
        return dict.fromkeys(lanes, since)
    first = await broker.read_back(lanes[0], since=since, after="", limit=1)
    if not first:
        return {}
    return {**dict.fromkeys(lanes[1:], first[0].at), lanes[0]: since}


async def _read(
    broker: KeepsSettled, lane: str, since: datetime | int, end: str | None = None
) -> AsyncIterator[Past]:
    after = ""
    while page := await broker.read_back(lane, since=since, after=after, limit=_PAGE):
        for past in page:
            yield past
            if past.key == end:
                return
        after = page[-1].key
