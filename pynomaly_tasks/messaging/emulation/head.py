"""What travels in front of an item's bytes, because the broker has no field for it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

#: The last byte is the version. No JSON and no text in UTF-8 begins like this.
_MAGIC = b"\x9fpm\x01"
_FIELDS = struct.Struct(">BBHddddH")
_IS_FRONT = 1
_MOST_DELIVERIES = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What is known of an item. Instants are seconds since 1970 by the clock of the process that wrote them."""

    message_id: str = ""
    priority: int = 0
    n_deliveries: int = 0  #: before it was appended; what the broker counts comes on top
    is_front: bool = False  #: it was held once and goes before those that were not
    sent_at: float = 0.0
    due_at: float = 0.0  #: 0: at once
    expires_at: float = 0.0  #: 0: never
    until_at: float = 0.0  #: when it leaves the delay lane that it lies in

    def wrap(self, body: bytes) -> bytes:
        """The head and then the body."""
        name = self.message_id.encode("utf-8", "surrogatepass")
        head = _FIELDS.pack(
            self.priority,
            _IS_FRONT if self.is_front else 0,
            min(self.n_deliveries, _MOST_DELIVERIES),
            self.sent_at,
            self.due_at,
            self.expires_at,
            self.until_at,
            len(name),
        )
        return b"".join((_MAGIC, head, name, body))


def read_head(data: bytes) -> tuple[Head, bytes]:
    """The head and the body; of bytes that none of us wrote an empty head, and all of them as the body."""
    start = len(_MAGIC) + _FIELDS.size
    if data[: len(_MAGIC)] != _MAGIC or len(data) < start:
        return Head(), data
    priority, flags, n_deliveries, sent_at, due_at, expires_at, until_at, n_name = _FIELDS.unpack_from(
        data, len(_MAGIC)
    )
    name = data[start : start + n_name]
    try:
        message_id = name.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return Head(), data
    if len(name) < n_name:
        return Head(), data
    head = Head(
        message_id=message_id,
        priority=priority,
        n_deliveries=n_deliveries,
        is_front=bool(flags & _IS_FRONT),
        sent_at=sent_at,
        due_at=due_at,
        expires_at=expires_at,
        until_at=until_at,
    )
    return head, data[start + n_name :]
