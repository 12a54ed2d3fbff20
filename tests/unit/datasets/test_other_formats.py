"""JSON lines, Parquet and gzip."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pynomaly_tasks.datasets import Dataset, DatasetOpener
from pynomaly_tasks.errors import InvalidDataset

Open = Callable[..., Dataset]


def kinds(dataset: Dataset) -> dict[str, str]:
    return {column.name: column.kind for column in dataset.columns}


def rows(dataset: Dataset) -> list[dict[str, object]]:
    return [row for batch in dataset.batches() for row in batch.to_pylist()]


def test_json_lines_have_the_keys_of_all_lines_as_columns(open_text: Open) -> None:
    dataset = open_text(
        '{"n":1,"t":"2014-07-01 00:10:00","s":"12","b":true}\n\n{"n":1.5,"t":null,"late":{"k":[1]},"=x()":"<b>"}\n',
        "x.jsonl",
    )

    assert kinds(dataset) == {
        "n": "number",
        "t": "datetime",
        "s": "text",
        "b": "boolean",
        "late": "text",
        "=x()": "text",
    }
    assert rows(dataset) == [
        {"n": 1.0, "t": datetime(2014, 7, 1, 0, 10), "s": "12", "b": True, "late": None, "=x()": None},
        {"n": 1.5, "t": None, "s": None, "b": None, "late": '{"k":[1]}', "=x()": "<b>"},
    ]


def test_key_with_values_of_several_types_is_text_with_a_warning(open_text: Open) -> None:
    dataset = open_text('{"a":1}\n{"a":"x"}\n', "x.jsonl")

    assert rows(dataset) == [{"a": "1"}, {"a": "x"}]
    assert "several JSON types" in dataset.warnings[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a":1}\n{"a":tru}\n', "line 2: is not valid JSON"),
        ('{"a":1}\n[1]\n', "line 2: is not a JSON object"),
        ('{"a":1}\n5\n', "line 2: is not a JSON object"),
        ('{"a":1,"A":2}\n', "same name"),
        ('{"a":1,"a":2}\n', "duplicate key"),
        ('{"a":1}\n{"a":' + "[" * 1_100 + "]" * 1_100 + "}\n", "nested deeper than 128"),
        ('{"a":1}\n{"a":' + "[" * 200_000 + "]" * 200_000 + "}\n", "nested deeper than 128"),
        (b'{"a":"x"}\n{"a":"caf\xe9"}\n', "byte 0xe9 at offset 19"),
        ("{}\n{}\n", "at least one key"),
    ],
)
def test_broken_json_lines_are_refused_with_the_line(
    content: str | bytes, said: str, open_text: Open
) -> None:
    with pytest.raises(InvalidDataset, match=said):
        open_text(content, "x.jsonl")


def test_parquet_types_become_the_four_kinds(root: Path, opener: DatasetOpener) -> None:
    noon = datetime(2014, 7, 1, 12, tzinfo=UTC)
    table = pa.table(
        {
            "i8": pa.array([1, None], pa.int8()),
            "f": pa.array([1.5, float("nan")], pa.float32()),
            "dec": pa.array([Decimal("1.25"), None], pa.decimal128(10, 2)),
            "day": pa.array([date(2014, 7, 1), None]),
            "ns": pa.array([noon.replace(tzinfo=None), None], pa.timestamp("ns")),
            "zoned": pa.array([noon, None], pa.timestamp("us", "Europe/Berlin")),
            "flag": pa.array([True, None]),
            "cat": pa.array(["x", None]).dictionary_encode(),
            "list": pa.array([[1, 2], None]),
            "struct": pa.array([{"k": 1}, None]),
            "bytes": pa.array([b"\x00a", None]),
        }
    )
    pq.write_table(table, root / "x.parquet")

    dataset = opener.open("x.parquet")

    assert kinds(dataset) == {
        **dict.fromkeys(["i8", "f", "dec"], "number"),
        **dict.fromkeys(["day", "ns", "zoned"], "datetime"),
        "flag": "boolean",
        **dict.fromkeys(["cat", "list", "struct", "bytes"], "text"),
    }
    assert rows(dataset)[0] == {
        "i8": 1,
        "f": 1.5,
        "dec": 1.25,
        "day": datetime(2014, 7, 1),
        "ns": datetime(2014, 7, 1, 12),
        "zoned": datetime(2014, 7, 1, 12),
        "flag": True,
        "cat": "x",
        "list": "[1, 2]",
        "struct": "{'k': 1}",
        "bytes": "\\x00a",
    }
    assert set(rows(dataset)[1].values()) == {None}


def test_parquet_that_is_damaged_is_refused(root: Path, opener: DatasetOpener) -> None:
    whole = root / "whole.parquet"
    pq.write_table(
        pa.table({"a": [float(i) * 1.1 for i in range(50_000)]}),
        whole,
        compression="zstd",
        use_dictionary=False,
    )
    content = bytearray(whole.read_bytes())
    (root / "cut.parquet").write_bytes(content[:-20])
    content[2_000:50_000] = b"\xff" * 48_000
    (root / "rotten.parquet").write_bytes(content)

    with pytest.raises(InvalidDataset, match="damaged"):
        opener.open("cut.parquet")
    rotten = opener.open("rotten.parquet")
    with pytest.raises(InvalidDataset, match=r"damaged|cannot be read"):
        list(rotten.batches())


def test_parquet_with_repeated_names_no_rows_or_too_many_columns_is_refused(
    root: Path, opener: DatasetOpener
) -> None:
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), root / "twice.parquet")
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), root / "none.parquet")
    pq.write_table(pa.table({f"c{i}": [1] for i in range(2_001)}), root / "wide.parquet")

    for name, said in [("twice", "same name"), ("none", "no rows"), ("wide", "2,001 columns")]:
        with pytest.raises(InvalidDataset, match=said):
            opener.open(f"{name}.parquet")


def test_parquet_that_changes_between_two_readings_is_refused(root: Path, opener: DatasetOpener) -> None:
    path = root / "x.parquet"
    pq.write_table(pa.table({"a": [1, 2]}), path)
    dataset = opener.open("x.parquet")

    pq.write_table(pa.table({"a": [3, 4, 5]}), path)

    with pytest.raises(InvalidDataset, match="changed while it was read"):
        list(dataset.batches())


def test_parquet_replaced_by_another_file_is_refused_and_never_mixed_up(
    root: Path, opener: DatasetOpener
) -> None:
    pq.write_table(pa.table({"a": [1, 2]}), root / "x.parquet")
    pq.write_table(pa.table({"a": [9]}), root / "other.parquet")
    dataset = opener.open("x.parquet")

    (root / "other.parquet").replace(root / "x.parquet")

    with pytest.raises(InvalidDataset, match="changed while it was read"):
        rows(dataset)


def test_gzip_is_unpacked_whole_with_several_members(root: Path, opener: DatasetOpener) -> None:
    (root / "x.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n") + gzip.compress(b"3,4\n"))
    (root / "x.jsonl.gz").write_bytes(gzip.compress(b'{"a":1,"b":2}\n{"a":3,"b":4}\n'))

    expected = [{"a": 1, "b": 2}, {"a": 3, "b": 4}]

    assert rows(opener.open("x.csv.gz")) == expected
    assert rows(opener.open("x.jsonl.gz")) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b"0\n" * 10_000_000), "unpacks to more than 8 MiB"),
        (gzip.compress(b"a,b\n1,2\n" * 1_000)[:-30], "cut off"),
        (gzip.compress(b"a,b\n1,2\n")[:12] + b"\xff" * 40, "damaged gzip|cut off|not UTF-8"),
        (gzip.compress(b""), "empty when unpacked"),
        (gzip.compress(b"\x00\x01\x02"), "not text"),
    ],
    ids=["bomb", "cut off", "damaged", "nothing inside", "binary inside"],
)
def test_gzip_that_is_a_bomb_or_broken_is_refused(
    content: bytes, said: str, root: Path, opener: DatasetOpener, tmp_path: Path
) -> None:
    (root / "x.csv.gz").write_bytes(content)

    with pytest.raises(InvalidDataset, match=said):
        opener.open("x.csv.gz")

    assert not list((tmp_path / "temporary").glob("*"))
