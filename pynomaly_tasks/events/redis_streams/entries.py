"""A record as the fields of a stream's entry, and back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from pynomaly_tasks.events.ports import Headers, Partition, Record, StoredRecord
from pynomaly_tasks.events.redis_streams import keys

_UNREADABLE = "unreadable-headers"


def fields_of(record: Record) -> list[str | bytes]:
    """Field and value, alternating; what is None has none."""
    fields: list[str | bytes] = []
    if record.key is not None:
        fields += ["key", record.key]
    if record.value is not None:
        fields += ["value", record.value]
    if record.headers:
        fields += ["headers", b"".join(_framed(name.encode(), value) for name, value in record.headers)]
    return fields


def size_bytes(record: Record) -> int:
    """What a record takes, without Redis' own share."""
    headers = sum(len(name) + len(value) for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


def stored_record(partition: Partition, entry_id: bytes, fields: Mapping[bytes, bytes]) -> StoredRecord:
    """The record of an entry, whoever wrote it."""
    offset = keys.offset_of(entry_id)
    return StoredRecord(
        topic=partition.topic,
        partition=partition.number,
        offset=offset,
        at=datetime.fromtimestamp(int(entry_id.partition(b"-")[0]) / 1_000, UTC),
        key=fields.get(b"key"),
        value=fields.get(b"value"),
        headers=_headers(fields.get(b"headers", b"")),
    )


def _framed(name: bytes, value: bytes) -> bytes:
    return b"%d,%d:%s%s" % (len(name), len(value), name, value)


def _headers(framed: bytes) -> Headers:
    headers: list[tuple[str, bytes]] = []
    rest = framed
    try:
        while rest:
            lengths, mark, rest = rest.partition(b":")
            n_name, n_value = map(int, lengths.split(b","))
            if not mark or min(n_name, n_value) < 0 or len(rest) < n_name + n_value:
                raise ValueError("the headers end early")
            headers.append((rest[:n_name].decode(), rest[n_name : n_name + n_value]))
            rest = rest[n_name + n_value :]
    except ValueError:  # a foreign entry: it is decoded as any other, and refused there with its bytes
        return [(_UNREADABLE, framed)]
    return headers
