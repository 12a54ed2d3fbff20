"""From an item to an SQS message and back.

The bytes are a binary attribute of the message, as they are: base64 in the body would cost a third of what
SQS takes. Bytes that would not fit are compressed: a dead letter holds base64 of what was large already.
A message without that attribute is a stranger's, and its body is the bytes.
"""

from __future__ import annotations

import itertools
import time
import uuid
import zlib
from collections.abc import Mapping
from typing import Any

from pynomaly_tasks.errors import InvalidMessage

#: What SQS takes in one message, and in the messages of one batch together: 1 MiB since August 2025.
MAX_MESSAGE_BYTES = 1_048_576
#: What an item may have, so that it still fits as a dead letter, which is a third larger and then compressed.
MAX_ITEM_BYTES = 1_000_000
_OVERHEAD_BYTES = 200

_PLAIN, _DEFLATED, _PLACE, _EARLIER = "d", "z", "t", "n"
_TICKS = itertools.count()


def to_message(data: bytes, *, n_earlier: int = 0) -> tuple[dict[str, Any], int]:
    """Its body and attributes, and how many bytes SQS counts. ``n_earlier``: handings of the copy it is of."""
    name = _PLAIN
    if len(data) > MAX_MESSAGE_BYTES - _OVERHEAD_BYTES:
        name, data = _DEFLATED, zlib.compress(data, 6)
    n_bytes = len(data) + _OVERHEAD_BYTES
    if n_bytes > MAX_MESSAGE_BYTES:
        raise InvalidMessage.of(
            "payload", f"makes a message of {n_bytes:,} bytes, and SQS takes {MAX_MESSAGE_BYTES:,}"
        )
    # In order of the clock, and within one process also where the clock stands still.
    place = f"{time.time_ns():020d}{next(_TICKS) % 10**6:06d}"
    attributes = {
        name: {"DataType": "Binary", "BinaryValue": data},
        _PLACE: {"DataType": "String", "StringValue": place},
    }
    if n_earlier:
        attributes[_EARLIER] = {"DataType": "Number", "StringValue": str(n_earlier)}
    return {"MessageBody": "pynomaly", "MessageAttributes": attributes}, n_bytes


def data_of(message: Mapping[str, Any]) -> bytes:
    """The item's bytes."""
    attributes = message.get("MessageAttributes", {})
    if _PLAIN in attributes:
        return bytes(attributes[_PLAIN].get("BinaryValue", b""))
    if _DEFLATED in attributes:
        try:
            return zlib.decompress(attributes[_DEFLATED]["BinaryValue"])
        except zlib.error:
            return bytes(attributes[_DEFLATED]["BinaryValue"])
    return str(message.get("Body", "")).encode("utf-8", "surrogatepass")


def n_earlier_of(message: Mapping[str, Any]) -> int:
    """How often it was handed out before this time."""
    copied = message.get("MessageAttributes", {}).get(_EARLIER, {}).get("StringValue", "0")
    return (
        int(message["Attributes"]["ApproximateReceiveCount"])
        - 1
        + (int(copied) if copied.lstrip("-").isdecimal() else 0)
    )


def key_of(message: Mapping[str, Any]) -> str:
    """A name that sorts as the messages were sent."""
    place = message.get("MessageAttributes", {}).get(_PLACE, {}).get("StringValue", "")
    if not (place.isdecimal() and len(place) == 26):
        place = f"{int(message['Attributes']['SentTimestamp']) * 1_000_000:020d}000000"
    return f"{place}-{message['MessageId']}"


def new_name() -> str:
    """What no other has."""
    return uuid.uuid4().hex
