"""What the transport writes is read as what kombu writes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kombu.utils.json import dumps, loads

from pynomaly_tasks.transport.encoding import decode, encode

_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.dates()
    | st.uuids(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=12,
)


@given(_values)
@example({"lasts_s": 0.5, "label": "a number beside a text"})
@example([1e308, 1e308, "two that add up to infinity"])
def test_value_is_read_as_if_kombu_had_written_it(value: Any) -> None:
    assert loads(encode(value)) == loads(dumps(value))


@given(st.binary(min_size=8, max_size=8), st.text())
@example(struct.pack("<d", float("nan")), "")
@example(struct.pack("<d", float("-inf")), "")
@example(bytes.fromhex("010000000000f07f"), "a NaN of another kind")
@example(bytes.fromhex("ffffffffffffef7f"), "the largest that is finite")
def test_every_float_is_read_as_if_kombu_had_written_it(number: bytes, text: str) -> None:
    value = {"before": -1, "number": struct.unpack("<d", number), "text": text}

    assert repr(loads(encode(value))) == repr(loads(dumps(value)))


class _Colour(Enum):
    RED = "red"


class _Level(IntEnum):
    HIGH = 3


class _Name(str):
    __slots__ = ()


@dataclass
class _Point:
    x: int


@pytest.mark.parametrize(
    "value",
    [_Level.HIGH, _Name("a name"), {_Name("a key"): 1}, Decimal("1.10"), datetime(2026, 1, 2, tzinfo=UTC), b"bytes",
     {1: "a number as key"}, {None: 1}, "\ud800", 2**64, -(2**63) - 1],
    ids=repr,
)  # fmt: skip
def test_what_orjson_would_write_otherwise_is_written_by_kombu(value: Any) -> None:
    assert loads(encode([value])) == loads(dumps([value]))


@pytest.mark.parametrize(
    "value", [_Colour.RED, _Point(1), {1, 2}, timedelta(1), bytearray(b"a"), 1j, ...], ids=repr
)
def test_what_kombu_cannot_write_is_refused(value: Any) -> None:
    for write in (dumps, encode):
        with pytest.raises(TypeError):
            write([value])


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = [1]
    value.append(value)

    for write in (dumps, encode):
        with pytest.raises((ValueError, RecursionError)):
            write(value)


@given(_values)
@example(2**64)
@example([-(2**63), 12345678901234567890123456789, 1.5e300, "12345678901234567890"])
@example(float("inf"))
def test_value_is_read_as_kombu_reads_it(value: Any) -> None:
    written = dumps(value)

    assert decode(written.encode()) == loads(written)
    assert decode(written) == loads(written)
