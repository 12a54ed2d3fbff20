"""Which columns a detector gets, and as what numbers; everything left out or filled is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pynomaly_tasks.domain.detection.column_rules import (
    A_DATE,
    A_TEXT,
    ALL_MISSING,
    ALL_THE_SAME,
    NOT_ASKED_FOR,
    LeftOut,
    check_names,
    no_timestamp,
    nothing_left,
)
from pynomaly_tasks.domain.detection.detector import FloatArray
from pynomaly_tasks.domain.detection.table import Table, TableColumn

#: Larger values, as infinite ones, are taken as missing: they are sentinels, not measurements, and the
#: forest's 32-bit floats end soon after.
LARGEST_VALUE = 1e37
#: A text column with more distinct values than this in the sample is a name or an id, not a category.
MAX_CATEGORIES = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedColumn:
    """One column as a detector sees it."""

    name: str
    encoding: Literal["number", "boolean", "frequency", "time"]
    median: float  #: of the sample; stands in for missing values where a detector cannot take them
    spread: float  #: 1.4826 times the median absolute deviation in the sample; its deviation where that is 0
    shares: Mapping[str, float] = field(default_factory=dict)  #: of each text in the sample, 0 to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """The rule by which rows of one file become numbers. See `prepare`."""

    used: tuple[UsedColumn, ...]
    left_out: tuple[LeftOut, ...]
    timestamp: str | None
    label: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """The used columns, in the order of the matrix."""
        return tuple(column.name for column in self.used)

    def matrix(self, rows: pa.RecordBatch | pa.Table) -> tuple[FloatArray, NDArray[np.int64]]:
        """Rows as (n, d); missing, infinite and huge values as NaN. Also how many were infinite or huge, (d,)."""
        # Column-major: every column is written in one run and most detectors read by column.
        x = np.empty((rows.num_rows, len(self.used)), order="F")
        n_huge = np.zeros(len(self.used), dtype=np.int64)
        for j, column in enumerate(self.used):
            values = _encoded(rows.column(column.name), column)
            huge = np.abs(values) > LARGEST_VALUE
            if huge.any():
                n_huge[j] = np.count_nonzero(huge)
                values = np.where(huge, np.nan, values)
            x[:, j] = values
        return x, n_huge

    def fill(self, x: FloatArray) -> FloatArray:
        """x with each missing value replaced by its column's median; x itself when none is missing."""
        missing = np.isnan(x)
        if not missing.any():
            return x
        return np.where(missing, self.medians(), x)

    def medians(self) -> FloatArray:
        """(d,), of the sample."""
        return np.array([column.median for column in self.used])

    def spreads(self) -> FloatArray:
        """(d,), robust deviation in the sample, over 0."""
        return np.array([column.spread for column in self.used])


def prepare(
    table: Table,
    sample: pa.Table,
    *,
    columns: Sequence[str] | None = None,
    timestamp_column: str | None = None,
    label_column: str | None = None,
) -> Preparation:
    """Decide about every column, from its kind and the sample.

    Numbers and booleans (0, 1) are used. Dates are left out, unless named: then they are seconds. Texts are
    left out, unless named: then a text becomes the share of the sample's rows that hold it, 0 for one never
    seen. Columns that are constant or empty in the sample are left out. The timestamp and the label never
    are features; without a named timestamp the first date column is it.

    Raises InvalidRequest for an unknown name and InvalidDataset when nothing is left to work on.
    """
    known = {column.name: column for column in table.columns}
    check_names(known, columns, timestamp_column, label_column)
    if timestamp_column is not None and known[timestamp_column].kind != "datetime":
        raise no_timestamp(timestamp_column, known[timestamp_column].kind)
    if timestamp_column is None:
        dates = [c.name for c in table.columns if c.kind == "datetime" and c.name not in (columns or ())]
        timestamp_column = next((name for name in dates if name != label_column), None)
    used: list[UsedColumn] = []
    left_out: list[LeftOut] = []
    for column in table.columns:
        if column.name in (timestamp_column, label_column):
            continue
        verdict = _decide(column, sample, columns)
        if isinstance(verdict, LeftOut):
            left_out.append(verdict)
        else:
            used.append(verdict)
    if not used:
        raise nothing_left(left_out)
    return Preparation(
        used=tuple(used), left_out=tuple(left_out), timestamp=timestamp_column, label=label_column
    )


def _decide(column: TableColumn, sample: pa.Table, columns: Sequence[str] | None) -> UsedColumn | LeftOut:
    name = column.name
    if columns is not None and name not in columns:
        return LeftOut(column=name, reason=NOT_ASKED_FOR)
    named = columns is not None
    if column.kind == "datetime" and not named:
        return LeftOut(column=name, reason=A_DATE)
    if column.kind == "text" and not named:
        return LeftOut(column=name, reason=A_TEXT)
    values = sample.column(name)
    if values.null_count == len(values):
        return LeftOut(column=name, reason=ALL_MISSING)
    shares: Mapping[str, float] = {}
    encoding: Literal["number", "boolean", "frequency", "time"] = "number"
    if column.kind == "text":
        encoding, shares = "frequency", _shares(values)
        if len(shares) > MAX_CATEGORIES:
            reason = f"text with more than {MAX_CATEGORIES:,} different values in the sample"
            return LeftOut(column=name, reason=reason)
    elif column.kind == "boolean":
        encoding = "boolean"
    elif column.kind == "datetime":
        encoding = "time"
    draft = UsedColumn(name=name, encoding=encoding, median=0.0, spread=1.0, shares=shares)
    numbers = _encoded(values, draft)
    numbers = numbers[np.abs(numbers) <= LARGEST_VALUE]
    if len(numbers) == 0:
        return LeftOut(column=name, reason=ALL_MISSING)
    if numbers.min() == numbers.max():
        return LeftOut(column=name, reason=ALL_THE_SAME)
    median = float(np.median(numbers))
    spread = 1.4826 * float(np.median(np.abs(numbers - median))) or float(numbers.std()) or 1.0
    return UsedColumn(name=name, encoding=encoding, median=median, spread=spread, shares=shares)


def _shares(values: pa.ChunkedArray) -> Mapping[str, float]:
    counts = pc.value_counts(values.cast(pa.string()))
    return {
        entry["values"]: entry["counts"] / len(values)
        for entry in counts.to_pylist()
        if entry["values"] is not None
    }


def _encoded(values: Any, column: UsedColumn) -> FloatArray:
    if column.encoding == "frequency":
        texts = values.cast(pa.string()).to_pylist()
        shares = column.shares
        return np.array([np.nan if t is None else shares.get(t, 0.0) for t in texts], dtype=np.float64)
    if column.encoding == "time":
        return seconds(values)
    return numbers_of(values)


def numbers_of(values: Any) -> FloatArray:
    """An Arrow column of numbers or booleans as 64-bit floats; null as NaN."""
    if values.type != pa.float64():
        values = pc.cast(values, pa.float64(), safe=False)
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)


def times_of(values: Any) -> NDArray[np.datetime64]:
    """An Arrow column of dates as UTC microseconds; null as NaT."""
    zone = values.type.tz if pa.types.is_timestamp(values.type) else None
    micros = pc.cast(values, pa.timestamp("us", tz=zone), safe=False)
    return np.asarray(micros.to_numpy(zero_copy_only=False)).astype("datetime64[us]")


def seconds(values: Any) -> FloatArray:
    """An Arrow column of dates as seconds since 1970; null as NaN."""
    times = times_of(values)
    out = times.astype(np.int64) / 1e6
    out[np.isnat(times)] = np.nan
    return out
