"""Offsets and records survive the way into an entry of a stream and back, whatever they are."""

from __future__ import annotations

import doctest

from hypothesis import given
from hypothesis import strategies as st

from pynomaly_tasks.events.ports import Partition, Record
from pynomaly_tasks.events.redis_streams import keys
from pynomaly_tasks.events.redis_streams.entries import fields_of, stored_record

ENTRY_IDS = st.tuples(st.integers(0, 2**43 - 1), st.integers(0, 2**20 - 1))
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def test_examples_of_the_keys_hold() -> None:
    assert doctest.testmod(keys).failed == 0


@given(ENTRY_IDS, ENTRY_IDS)
def test_offsets_are_the_ids_without_loss_and_sort_alike(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    first, second = (f"{at_ms}-{number}" for at_ms, number in (one, other))

    assert keys.entry_id_of(keys.offset_of(first)) == first
    assert (keys.offset_of(first) < keys.offset_of(second)) == (one < other)
    assert keys.offset_of(first) < 2**63


@given(st.none() | st.binary(), st.none() | st.binary(), st.lists(st.tuples(NAMES, st.binary(max_size=50))))
def test_every_record_comes_back(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
) -> None:
    record = Record(topic="jobs", key=key, value=value, headers=headers)
    words = [word if isinstance(word, bytes) else word.encode() for word in fields_of(record)]
    fields = dict(zip(words[::2], words[1::2], strict=True))

    stored = stored_record(Partition("jobs", 1), b"1700000000000-3", fields)

    assert (stored.key, stored.value, list(stored.headers)) == (key, value, headers)
    assert (stored.topic, stored.partition, stored.offset) == ("jobs", 1, (1700000000000 << 20) + 3)


@given(st.binary(min_size=1))
def test_whatever_stands_in_a_foreign_entry_is_read(headers: bytes) -> None:
    stored = stored_record(Partition("jobs", 1), b"1-0", {b"headers": headers})

    assert stored.headers
    assert all(isinstance(name, str) and isinstance(value, bytes) for name, value in stored.headers)
