"""A key falls into the same partition whichever client writes it."""

from __future__ import annotations

from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from pynomaly_tasks.events.kafka.partitioning import key_hash


@given(st.binary(max_size=80))
def test_hash_is_that_of_other_clients(key: bytes) -> None:
    assert key_hash(key) == murmur2(key) & 0x7FFFFFFF


def test_hash_is_that_of_kafkas_own_tests() -> None:
    # From UtilsTest of Apache Kafka, as signed numbers there.
    known = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536,
             b"a-little-bit-longer-string": -1486304829, b"abc": 479470107}  # fmt: skip

    assert {key: key_hash(key) for key in known} == {
        key: hashed & 0x7FFFFFFF for key, hashed in known.items()
    }
