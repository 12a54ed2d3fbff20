"""Reads a topic from a time or an offset on: what is settled as well."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from aiokafka.errors import OffsetOutOfRangeError

from pynomaly_tasks.messaging.backends.kafka.wire import KafkaWire
from pynomaly_tasks.messaging.plain_broker import Past

_FETCH_BYTES = 524_288


async def read_past(
    wire: KafkaWire,
    topic: str,
    is_settled: Callable[[int], bool],
    *,
    since: datetime | int,
    after: str,
    limit: int,
) -> list[Past]:
    """As `KeepsSettled.read_back`; a key is an offset and one."""
    if after:
        start: int | None = int(after)
    elif isinstance(since, datetime):
        start = await wire.offset_at(topic, max(0, int(since.timestamp() * 1000)))
    else:
        start = since
    if start is None:
        return []
    at = max(start, await wire.begin_offset(topic))
    end = await wire.end_offset(topic)
    found: list[Past] = []
    while at < end and len(found) < limit:
        try:
            fetched = await wire.fetch(topic, at, max_bytes=_FETCH_BYTES)
        except OffsetOutOfRangeError:  # it was deleted meanwhile
            at = max(at + 1, await wire.begin_offset(topic))
            continue
        for record in fetched.records:
            found.append(
                Past(
                    key=str(record.offset + 1),
                    data=record.value or b"",
                    at=datetime.fromtimestamp(record.timestamp / 1000, UTC),
                    is_settled=is_settled(record.offset),
                )
            )
        if fetched.next_offset <= at:
            break
        at = fetched.next_offset
    return found[:limit]
