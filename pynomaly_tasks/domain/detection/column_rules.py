"""The rules on columns and rows that need no data to be stated; importing this loads no library."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pynomaly_tasks.errors import InvalidDataset, InvalidRequest

#: A table with fewer rows is refused.
MIN_ROWS = 10
NOT_ASKED_FOR = "not among the columns asked for"
A_DATE = "a date; name it in columns to use it as a number"
A_TEXT = "text; name it in columns to use how frequent each text is"
ALL_MISSING = "every value is missing"
ALL_THE_SAME = "every value is the same"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A column that is not used."""

    column: str
    reason: str


def check_names(
    known: Collection[str],
    columns: Sequence[str] | None,
    timestamp_column: str | None,
    label_column: str | None,
) -> None:
    """Refuse names of columns that are not there, or that are given two parts. Raises InvalidRequest."""
    listed = ", ".join(list(known)[:50])
    for name in columns or ():
        if name not in known:
            raise InvalidRequest.of("columns", f"there is no column {name!r}; the file has {listed}")
        if name in (timestamp_column, label_column):
            raise InvalidRequest.of(
                "columns", f"{name!r} is the timestamp or the label, so it cannot be a feature too"
            )
    for field_name, wanted in (("timestamp_column", timestamp_column), ("label_column", label_column)):
        if wanted is not None and wanted not in known:
            raise InvalidRequest.of(field_name, f"there is no column {wanted!r}; the file has {listed}")


def no_timestamp(column: str, kind: str) -> InvalidRequest:
    """The error for a timestamp column that holds no dates."""
    return InvalidRequest.of(
        "timestamp_column",
        f"{column!r} holds {kind} values; it must hold dates, such as 2024-01-31 12:00:00",
    )


def windows_without_timestamp() -> InvalidRequest:
    """The error for known periods in a file without dates."""
    return InvalidRequest.of("label_windows", "windows need a timestamp column and the file has none")


def nothing_left(left_out: Sequence[LeftOut]) -> InvalidDataset:
    """The error for a file of which no column can be used."""
    reasons = "; ".join(f"{item.column}: {item.reason}" for item in left_out[:20])
    return InvalidDataset.of(
        "columns",
        f"no column is left to look for anomalies in ({reasons or 'there are no others'}); "
        "name columns that hold numbers, or text columns to use how frequent each text is",
    )


def too_few_rows(n_rows: int) -> InvalidDataset:
    """The error for a table of fewer than MIN_ROWS rows."""
    return InvalidDataset.of(
        "dataset", f"{n_rows} row{'s' * (n_rows != 1)}; at least {MIN_ROWS} are needed to tell what is usual"
    )
