"""The footer of Parquet as pyarrow writes it, and as nobody does."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pynomaly_tasks.datasets import DatasetOpener
from pynomaly_tasks.datasets.parquet_footer import Footer, read_footer
from pynomaly_tasks.datasets.preview import Preview
from pynomaly_tasks.errors import InvalidDataset


def footer_of(table: pa.Table, **options: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    content = file.getvalue()
    return content[-8 - int.from_bytes(content[-8:-4], "little") : -8]


NESTED = pa.table(
    {
        "plain": [1, 2],
        "list": [[1], [2, 3]],
        "struct": [{"k": {"deep": 1}}, {"k": None}],
        "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
        "dictionary": pa.array(["x", "y"]).dictionary_encode(),
        "ünï 🙂": [True, False],
        "day": pa.array([1, 2], pa.date32()),
        "decimal": pa.array([1, 2], pa.decimal128(12, 3)),
        "instant": pa.array([1, 2], pa.timestamp("us", "UTC")),
    }
)


@pytest.mark.parametrize("options", [{}, {"version": "1.0"}, {"row_group_size": 1}, {"store_schema": False}])
def test_names_and_rows_are_those_that_pyarrow_sees(options: dict[str, object]) -> None:
    assert read_footer(footer_of(NESTED, **options)) == Footer(names=tuple(NESTED.column_names), n_rows=2)


def test_wide_and_empty_tables_are_read() -> None:
    wide = pa.table({f"c{i}": [1.5] for i in range(3_000)})
    empty = pa.table({"a": pa.array([], pa.int64())})

    assert read_footer(footer_of(wide)) == Footer(names=tuple(wide.column_names), n_rows=1)
    assert read_footer(footer_of(empty)) == Footer(names=("a",), n_rows=0)


def test_start_of_a_footer_is_enough_once_it_holds_the_schema() -> None:
    footer = footer_of(NESTED)
    found = [read_footer(footer[:length]) for length in range(len(footer) + 1)]

    assert set(found) == {None, Footer(names=tuple(NESTED.column_names), n_rows=2)}
    assert found[len(footer) // 2] is not None


def test_bytes_that_are_no_footer_are_never_an_error() -> None:
    rng = random.Random(5)
    footer = footer_of(NESTED)
    for _ in range(3_000):
        damaged = bytearray(footer)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(400)] = rng.randrange(256)

        assert isinstance(read_footer(bytes(damaged)), Footer | None)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pa.table([[1], [2]], names=["a", "a"]), "same name"),
        (pa.table({"a": pa.array([], pa.int64())}), "no rows"),
        (pa.table({f"c{i}": [1] for i in range(2_001)}), "2,001 columns, the limit is 2,000"),
    ],
)
def test_parquet_of_a_wrong_shape_is_refused_by_door_and_work_in_the_same_words(
    table: pa.Table, said: str, root: Path, opener: DatasetOpener
) -> None:
    pq.write_table(table, root / "x.parquet")

    with pytest.raises(InvalidDataset, match=said) as door:
        opener.check("x.parquet")
    with pytest.raises(InvalidDataset) as work:
        opener.open("x.parquet")

    assert str(door.value) == str(work.value)


def test_columns_of_parquet_are_known_at_the_door(root: Path, opener: DatasetOpener) -> None:
    pq.write_table(NESTED.select(["plain", "day"]), root / "x.parquet")
    seen: list[Preview] = []

    opener.check("x.parquet", seen.append)

    assert seen == [Preview(names=("plain", "day"), n_rows=2)]
