"""What the transport writes is read as what kombu writes."""

from __future__ import annotations

from typing import Any

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


@given(_values)
@example(2**64)
@example([-(2**63), 12345678901234567890123456789, 1.5e300, "12345678901234567890"])
@example(float("inf"))
def test_value_is_read_as_kombu_reads_it(value: Any) -> None:
    written = dumps(value)

    assert decode(written.encode()) == loads(written)
    assert decode(written) == loads(written)
