"""What Kafka answers to a fetch is read whole, whoever wrote it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CorruptRecordException, OffsetOutOfRangeError
from aiokafka.protocol.fetch import (
    FetchResponse_v4,
    FetchResponse_v5,
    FetchResponse_v7,
    FetchResponse_v11,
)
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from pynomaly_tasks.kafka_client.fetching import unpack_fetched

PARTITION = TopicPartition("t", 3)
VERSIONS = [FetchResponse_v4, FetchResponse_v5, FetchResponse_v7, FetchResponse_v11]
PRODUCER = 7


class NoText:
    """A name of a header that another client wrote in Latin-1."""

    def encode(self, *_: object) -> bytes:
        return b"caf\xe9"


def batch(
    values: Sequence[bytes], *, first: int, headers: Sequence[Any] = (), is_transactional: bool = False
) -> bytes:
    producer = PRODUCER if is_transactional else -1
    builder = _DefaultRecordBatchBuilderPy(2, 0, int(is_transactional), producer, 0, 0, 100_000)
    for number, value in enumerate(values):
        builder.append(number, 1_000, b"k", value, list(headers))
    written = builder.build()
    struct.pack_into(">q", written, 0, first)
    return bytes(written)


def answer(version: Any, raw: bytes, *, aborted: Sequence[tuple[int, int]] = (), code: int = 0) -> Any:
    """As it comes over the wire."""
    part: tuple[Any, ...] = (3, code, 99, 98)
    if version.API_VERSION >= 5:
        part += (0,)
    part += (list(aborted),)
    if version.API_VERSION >= 11:
        part += (-1,)
    head = (0, 0, 0) if version.API_VERSION >= 7 else (0,)
    return version.decode(version(*head, [("t", [(*part, raw)])]).encode())


@pytest.mark.parametrize("version", VERSIONS)
def test_records_are_read_from_the_offset_on(version: Any) -> None:
    raw = batch([b"a", b"b"], first=10) + batch([b"c"], first=12)

    fetched = unpack_fetched(PARTITION, 11, answer(version, raw))

    assert [(record.offset, record.value) for record in fetched.records] == [(11, b"b"), (12, b"c")]
    assert (fetched.next_offset, fetched.end) == (13, 99)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_header_whose_name_is_no_text_hides_no_record(version: Any) -> None:
    raw = batch([b"a"], first=0) + batch([b"b"], first=1, headers=[(NoText(), b"\xff")])
    raw += batch([b"c"], first=2)

    fetched = unpack_fetched(PARTITION, 0, answer(version, raw))

    assert [record.value for record in fetched.records] == [b"a", b"b", b"c"]
    assert fetched.records[1].headers == (("caf\\xe9", b"\xff"),)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_transaction_took_back_is_passed_over(version: Any) -> None:
    raw = batch([b"taken", b"back"], first=0, is_transactional=True) + batch([b"kept"], first=2)

    fetched = unpack_fetched(PARTITION, 0, answer(version, raw, aborted=[(PRODUCER, 0)]))

    assert [record.value for record in fetched.records] == [b"kept"]
    assert fetched.next_offset == 3


def test_nothing_new_leaves_the_offset_where_it_is() -> None:
    fetched = unpack_fetched(PARTITION, 99, answer(FetchResponse_v11, b""))

    assert (list(fetched.records), fetched.next_offset, fetched.end) == ([], 99, 99)


def test_an_error_of_the_partition_is_raised() -> None:
    with pytest.raises(OffsetOutOfRangeError):
        unpack_fetched(PARTITION, 0, answer(FetchResponse_v11, b"", code=OffsetOutOfRangeError.errno))


def test_bytes_that_changed_on_their_way_are_an_error() -> None:
    raw = bytearray(batch([b"value"], first=0))
    raw[-3] ^= 1

    with pytest.raises(CorruptRecordException):
        unpack_fetched(PARTITION, 0, answer(FetchResponse_v11, bytes(raw)))
