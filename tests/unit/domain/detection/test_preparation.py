from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pynomaly_tasks.domain.detection.preparation import MAX_CATEGORIES, Preparation, prepare
from pynomaly_tasks.errors import InvalidDataset, InvalidRequest


def prepared(table: Any, **wanted: Any) -> Preparation:
    return prepare(table, table.rows, **wanted)


NUMBERS = pa.array([1.0, 2.0, None, 4.0])


def reasons(preparation: Preparation) -> dict[str, str]:
    return {item.column: item.reason for item in preparation.left_out}


def test_numbers_and_booleans_are_used_and_the_rest_left_out_with_its_reason(table_of: Any) -> None:
    table = table_of(
        {
            "a": NUMBERS,
            "flag": [True, False, None, True],
            "name": ["x", "y", "x", None],
            "constant": [7, 7, 7, None],
            "empty": pa.array([None] * 4, pa.float64()),
        }
    )

    preparation = prepared(table)

    assert preparation.names == ("a", "flag")
    assert reasons(preparation) == {
        "name": "text; name it in columns to use how frequent each text is",
        "constant": "every value is the same",
        "empty": "every value is missing",
    }


def test_a_named_text_column_becomes_the_share_of_rows_that_hold_the_text(table_of: Any) -> None:
    table = table_of({"colour": ["red", "red", "blue", "red"], "a": NUMBERS})
    preparation = prepared(table, columns=["colour"])

    x, _ = preparation.matrix(table.rows)
    unseen, _ = preparation.matrix(pa.table({"colour": ["green", None]}))

    np.testing.assert_array_equal(x[:, 0], [0.75, 0.75, 0.25, 0.75])
    np.testing.assert_array_equal(unseen[:, 0], [0.0, np.nan])


def test_a_text_column_of_ids_is_left_out_even_when_named(table_of: Any) -> None:
    n = MAX_CATEGORIES + 1
    table = table_of({"id": [f"user-{i}" for i in range(n)], "a": np.arange(n)})

    preparation = prepared(table, columns=["id", "a"])

    assert preparation.names == ("a",)
    assert "different values" in reasons(preparation)["id"]


def test_the_first_date_column_is_the_timestamp_and_others_are_left_out(table_of: Any) -> None:
    days = pa.array([date(2024, 1, i) for i in (1, 2, 3, 4)])
    preparation = prepared(table_of({"a": NUMBERS, "day": days, "other": days}))

    assert preparation.timestamp == "day"
    assert "a date" in reasons(preparation)["other"]


def test_a_named_date_column_becomes_seconds(table_of: Any) -> None:
    moments = pa.array([datetime(1970, 1, 1, 0, 0, i, tzinfo=UTC) for i in (0, 5, 9, 10)])
    table = table_of({"at": moments, "a": NUMBERS})

    preparation = prepared(table, columns=["at", "a"])

    assert preparation.timestamp is None
    np.testing.assert_array_equal(preparation.matrix(table.rows)[0][:, 0], [0.0, 5.0, 9.0, 10.0])


def test_infinite_and_huge_values_are_taken_as_missing_and_counted(table_of: Any) -> None:
    table = table_of({"a": [1.0, float("inf"), 3.0, -1e300], "b": [1, 2, 3, 4]})

    x, n_huge = prepared(table).matrix(table.rows)

    assert np.isnan(x[[1, 3], 0]).all()
    assert n_huge.tolist() == [2, 0]


def test_missing_values_are_filled_with_the_median(table_of: Any) -> None:
    table = table_of({"a": [1.0, None, 3.0, 100.0]})
    preparation = prepared(table)

    filled = preparation.fill(preparation.matrix(table.rows)[0])

    assert filled[:, 0].tolist() == [1.0, 3.0, 3.0, 100.0]


def test_label_and_timestamp_are_never_features(table_of: Any) -> None:
    table = table_of({"a": NUMBERS, "label": [0, 0, 1, 0]})

    assert prepared(table, label_column="label").names == ("a",)


@pytest.mark.parametrize(
    ("wanted", "field", "told"),
    [
        ({"columns": ["a", "missing"]}, "columns", "'missing'"),
        ({"label_column": "missing"}, "label_column", "the file has a, b"),
        ({"timestamp_column": "missing"}, "timestamp_column", "'missing'"),
        ({"timestamp_column": "b"}, "timestamp_column", "must hold dates"),
        ({"columns": ["a"], "label_column": "a"}, "columns", "cannot be a feature"),
    ],
)
def test_a_wrong_name_is_refused_with_the_field(
    wanted: dict[str, Any], field: str, told: str, table_of: Any
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepared(table_of({"a": NUMBERS, "b": [1, 2, 3, 4]}), **wanted)

    assert caught.value.problems[0].field == field
    assert told in caught.value.problems[0].message


def test_a_file_with_nothing_to_work_on_is_refused_with_every_reason(table_of: Any) -> None:
    table = table_of({"empty": pa.array([None] * 4, pa.float64()), "name": ["a", "b", "c", "d"]})

    with pytest.raises(InvalidDataset, match=r"empty: every value is missing; name: text"):
        prepared(table)
