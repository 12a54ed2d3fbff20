"""Delimited text: its dialect, its types, and every way in which it can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from pynomaly_tasks.datasets import Dataset, DatasetOpener
from pynomaly_tasks.errors import InvalidDataset

Open = Callable[..., Dataset]


def kinds(dataset: Dataset) -> dict[str, str]:
    return {column.name: column.kind for column in dataset.columns}


def rows(dataset: Dataset) -> list[dict[str, object]]:
    return [row for batch in dataset.batches() for row in batch.to_pylist()]


def test_real_flights_have_the_types_a_person_would_give_them(opener: DatasetOpener) -> None:
    dataset = opener.open("flights.csv")

    assert dataset.n_rows == 1_429
    assert kinds(dataset)["dep_delay"] == "number"
    assert kinds(dataset)["carrier"] == "text"
    assert kinds(dataset)["time_hour"] == "datetime"
    assert rows(dataset)[0]["time_hour"] == datetime(2013, 1, 1, 11)
    assert sum(batch.column("dep_time").null_count for batch in dataset.batches(["dep_time"])) > 10
    assert dataset.warnings == ()


def test_each_delimiter_is_recognised(open_text: Open) -> None:
    for number, delimiter in enumerate(",;\t|"):
        dataset = open_text(f"a{delimiter}b c\n1{delimiter}x, y. z\n".replace(", ", " "), f"{number}.csv")

        assert list(kinds(dataset)) == ["a", "b c"], delimiter


def test_one_column_without_delimiter_is_a_table(open_text: Open) -> None:
    assert rows(open_text("value\n1\n2.5\n")) == [{"value": 1.0}, {"value": 2.5}]


def test_byte_order_mark_crlf_and_quoted_newlines_are_read(open_text: Open) -> None:
    dataset = open_text(b'\xef\xbb\xbfa,"b"\r\n1,"x\r\ny, ""z"""\r\n2,\r\n')

    assert rows(dataset) == [{"a": 1, "b": 'x\r\ny, "z"'}, {"a": 2, "b": None}]


def test_blank_lines_of_one_column_are_missing_values_from_the_first_on(open_text: Open) -> None:
    assert rows(open_text("value\n\n1\n\n2\n")) == [{"value": v} for v in (None, 1, None, 2)]


def test_blank_lines_between_rows_of_several_columns_are_no_rows(open_text: Open) -> None:
    assert open_text("a,b\n\n1,2\n\n\n3,4\n\n").n_rows == 2


def test_column_names_with_markup_and_formulas_are_kept_exactly(open_text: Open) -> None:
    names = ['=cmd()|"/c calc"', "<script>alert(1)</script>", "a'b;--", " spaced ", "Zoë 🙂", "select", "c0"]
    header = ",".join('"' + name.replace('"', '""') + '"' for name in names)

    dataset = open_text(f"{header}\n" + ",".join("1234567") + "\n")

    assert [column.name for column in dataset.columns] == names
    assert rows(dataset) == [dict(zip(names, range(1, 8), strict=True))]
    assert dataset.sample(1, 0).column_names == names
    with dataset.connection() as connection:
        assert connection.sql("SELECT * FROM data").columns == names


def test_column_without_a_name_is_numbered_with_a_warning(open_text: Open) -> None:
    dataset = open_text(",a\n0,5\n")

    assert list(kinds(dataset)) == ["column_1", "a"]
    assert "column 1 has no name" in dataset.warnings[0]


def test_words_for_missing_and_nan_are_null_and_infinities_stay(open_text: Open) -> None:
    dataset = open_text("x\n1\nNA\nnan\nNaN\n-nan\ninf\n-Infinity\nnull\n")

    values = [row["x"] for row in rows(dataset)]

    assert values == [1.0, None, None, None, None, float("inf"), float("-inf"), None]
    assert kinds(dataset) == {"x": "number"}
    assert dataset.warnings == ("column 'x' has 2 infinite values",)


def test_column_without_any_value_is_a_number(open_text: Open) -> None:
    dataset = open_text("a,b\n1,nan\n2,NA\n")

    assert kinds(dataset)["b"] == "number"


def test_one_row_opens(open_text: Open) -> None:
    assert open_text("a,b\n1,2").n_rows == 1


def test_decimal_after_many_whole_numbers_is_not_rounded(open_text: Open) -> None:
    dataset = open_text("a,b\n" + "1,2\n" * 25_000 + "1.5,2\n")

    assert rows(dataset)[-1] == {"a": 1.5, "b": 2}
    assert dataset.columns[0].type == "DOUBLE"


@pytest.mark.parametrize(
    ("early", "late", "kind"),
    [
        ("1", "zz", "text"),
        ("2014-07-01", "soon", "text"),
        ("2014-07-01", "17", "text"),
        ("true", "maybe", "text"),
        ("NA", "2014-07-01 10:00:00", "datetime"),
        ("NA", "true", "boolean"),
    ],
)
def test_type_is_that_of_all_rows_wherever_the_odd_one_stands(
    early: str, late: str, kind: str, open_text: Open
) -> None:
    late_last = open_text("a,b\n" + f"{early},1\n" * 21_000 + f"{late},1\n", "last.csv")
    late_first = open_text("a,b\n" + f"{late},1\n" + f"{early},1\n" * 21_000, "first.csv")

    assert kinds(late_last) == kinds(late_first) == {"a": kind, "b": "number"}
    assert rows(late_last)[-1]["a"] == rows(late_first)[0]["a"]


def test_change_of_mind_about_a_type_is_stated(open_text: Open) -> None:
    dataset = open_text("a,b\n" + "1,2\n" * 21_000 + "zz,2\n")

    assert dataset.warnings == (
        "column 'a' looks like number in the first 20,480 rows, but not in all: it is read as text",
    )
    assert rows(dataset)[0] == {"a": "1", "b": 2}


def test_identifiers_too_long_for_a_number_stay_text_wherever_they_stand(open_text: Open) -> None:
    first = open_text("id\n9007199254740993\n" + "1\n" * 21_000, "first.csv")
    last = open_text("id\n" + "1\n" * 21_000 + "9007199254740993\n", "last.csv")

    assert kinds(first) == kinds(last) == {"id": "text"}
    assert rows(last)[-1] == {"id": "9007199254740993"}


def test_times_with_an_offset_become_utc(open_text: Open) -> None:
    dataset = open_text(
        "t\n2014-07-01 00:00:00\n2014-07-01T02:00:00+02:00\n2014-07-01T00:30:00Z\n2014-07-01\n"
    )

    assert [row["t"] for row in rows(dataset)] == [
        datetime(2014, 7, 1),
        datetime(2014, 7, 1),
        datetime(2014, 7, 1, 0, 30),
        datetime(2014, 7, 1),
    ]


def test_only_true_and_false_are_booleans(open_text: Open) -> None:
    dataset = open_text("a,b,c,d\ntrue,t,1,yes\nFALSE,f,0,no\n")

    assert kinds(dataset) == {"a": "boolean", "b": "text", "c": "number", "d": "text"}
    assert [row["a"] for row in rows(dataset)] == [True, False]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n", "no rows"),
        ("a,b", "no rows"),
        ("a,b\n1,2\n1,2,3\n", "line 3: has 3 fields where the first line names 2 columns"),
        ("a,b\n1,2\n1\n", "line 3: has 1 fields"),
        ("a,b,a\n1,2,3\n", "same name.*'a', 'a'"),
        ("a,A\n1,2\n", "same name"),
        ("5.1,3.5\n4.9,3\n", "line of numbers"),
        ('a,b\n1,"x\n2,y\n', "never closed"),
        (",\n1,2\n", "without column names"),
        ('a,"b\nc"\r\n1,2\r\n', "line break in the column name"),
        ("a,b\r\n1,2\n3,4\r\n", "end in different ways.*sed"),
        ('a,b\n"x\r\n",2\r\n', "end in different ways.*sed|never closed"),
        (b"a,b\n" + b"1,x\n" * 40_000 + b"1,caf\xe9\n", "byte 0xe9 at offset 160009"),
        (b"a,b\n" + b"1,x\n" * 40_000 + b"1,c\x00\n", "NUL"),
        ("x" * 2_000 + ",b\n1,2\n", "column name of 2,000 characters"),
        ("a,b\n1," + "x" * 3_000_000 + "\n", "longer than 2 MiB"),
        (
            ",".join(f"c{i}" for i in range(10_000)) + "\n" + ",".join("1" * 10_000) + "\n",
            "10,000 columns.*2,000",
        ),
    ],
)
def test_broken_file_is_refused_with_the_place_and_the_way_out(
    content: str | bytes, said: str, open_text: Open, tmp_path: Path
) -> None:
    with pytest.raises(InvalidDataset, match=said):
        open_text(content)

    assert not list((tmp_path / "temporary").glob("*"))


def test_more_rows_than_allowed_are_refused(root: Path, tmp_path: Path) -> None:
    (root / "x.csv").write_text("a\n" + "1\n" * 11)
    opener = DatasetOpener([root], 10, 10, 64, tmp_path / "t")

    with pytest.raises(InvalidDataset, match="more than 10 rows"):
        opener.open("x.csv")


@pytest.mark.large
def test_two_thousand_columns_open(open_text: Open) -> None:
    names = [f"c{i}" for i in range(2_000)]

    dataset = open_text(",".join(names) + "\n" + (",".join(["1.5"] * 2_000) + "\n") * 3)

    assert len(dataset.columns) == 2_000
    assert rows(dataset)[2]["c1999"] == 1.5
