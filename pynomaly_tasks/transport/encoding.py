"""JSON as kombu writes it, in a fifth of the time where that makes no difference."""

from __future__ import annotations

import marshal
import re
from typing import Any

import orjson
from kombu.utils.json import JSONEncoder
from kombu.utils.json import loads as kombu_loads

_CONTAINERS = frozenset({dict, list, tuple})

#: What kombu's `dumps` makes on each call.
_kombu_encode = JSONEncoder().encode

#: Of what `is_plain` lets through, orjson refuses what it would write otherwise than kombu.
_STRICT = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def encode(value: Any) -> str | bytes:
    """The value as JSON that kombu's decoder reads as it would read kombu's.

    orjson writes UUIDs, dates, enumerations and NaN in other ways, so it gets only what consists of
    JSON's own types; kombu's encoder gets the rest. Raises what that raises.
    """
    if is_plain(value):
        try:
            return orjson.dumps(value, option=_STRICT)
        except orjson.JSONEncodeError:
            pass  # bytes, a number past 64 bits, a key that is no string, half a surrogate pair
    encoded: str = _kombu_encode(value)
    return encoded


#: A float that is not finite, as marshal writes it: a letter, then eight bytes, the lowest first.
_NOT_FINITE = re.compile(rb"g.{6}[\xf0-\xff][\x7f\xff]", re.DOTALL)


def is_plain(value: Any) -> bool:
    """Whether orjson and kombu mean the same by it, or orjson refuses it.

    marshal looks through it, in a fifth of the time that Python code takes: it refuses every class that
    is not Python's own, subclasses too. Then only the floats have to be looked at. What it writes is used for
    nothing else; bytes that only look like NaN, in a text, send the value kombu's way.
    """
    try:
        flat = marshal.dumps(value, _MARSHAL_VERSION)
    except ValueError:  # another class, or nested too deep, as what contains itself is
        return False
    # Few values have one of these bytes, and finding out takes next to nothing.
    return not ((b"\x7f" in flat or b"\xff" in flat) and _NOT_FINITE.search(flat))


#: Writes floats as eight bytes, and an object that is met twice twice.
_MARSHAL_VERSION = 2


#: orjson reads integers past 64 bits as floats; those have 19 digits or more.
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19


def decode(data: Any) -> Any:
    """What kombu's decoder reads there, and its errors; bytes in a fifth of the time."""
    if isinstance(data, bytes) and b'"__type__"' not in data and _LONG_NUMBER not in data.translate(_DIGITS):
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            pass  # perhaps NaN, which kombu takes
    return kombu_loads(data)


def short_repr(value: Any, limit: int, max_levels: int) -> str:
    """`repr`, of about ``limit`` characters at most however large the value is, for people to read."""
    parts: list[str] = []
    _write(value, parts, limit, max_levels)
    return "".join(parts)


def _write(value: Any, parts: list[str], room: int, levels: int) -> int:
    """Append parts; returns the room that is left."""
    kind = type(value)
    if kind is str or kind is bytes:
        text = repr(value[:room])
        if len(value) > room:
            text = f"{text[:-1]}...{text[-1]}"
    elif kind in _CONTAINERS or kind is set or kind is frozenset:
        return _write_container(value, parts, room, levels)
    else:
        try:
            text = repr(value)
        except Exception as error:
            text = f"<{kind.__name__} whose repr raises {type(error).__name__}>"
        if len(text) > room:
            text = text[:room] + "..."
    parts.append(text)
    return room - len(text)


def _write_container(value: Any, parts: list[str], room: int, levels: int) -> int:
    kind = type(value)
    is_map = kind is dict
    if kind is list:
        begin, end = "[", "]"
    elif kind is tuple:
        begin, end = "(", ",)" if len(value) == 1 else ")"
    elif is_map or (kind is set and value):
        begin, end = "{", "}"
    else:
        begin, end = f"{kind.__name__}(" + ("{" if value else ""), ("}" if value else "") + ")"
    parts.append(begin)
    room -= len(begin) + len(end)
    if value and levels <= 0:
        parts.append("...")
    else:
        comma = ""
        for each in value:
            parts.append(comma)
            if room <= 0:
                parts.append("...")
                break
            comma = ", "
            room = _write(each, parts, room, levels - 1) - 2
            if is_map:
                parts.append(": ")
                room = _write(value[each], parts, max(room, 0), levels - 1) - 2
    parts.append(end)
    return room
