"""The highest-scoring rows of a stream, with their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from pynomaly_tasks.domain.detection.detector import FloatArray

MAX_TEXT = 200  #: characters of a text value that are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class TopRow:
    """One of the highest-scoring rows."""

    row: int  #: position in the file, from 0
    score: float
    x: FloatArray  #: (d,), as the detector saw it
    values: Mapping[str, Any]  #: as in the file, fit for JSON


class TopRows:
    """Keeps the ``limit`` highest scores seen; of equal scores the earlier row."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: list[TopRow] = []

    def offer(self, scores: FloatArray, first_row: int, rows: pa.RecordBatch, x: FloatArray) -> None:
        """Consider a batch: scores (n,), the rows they belong to, and the same rows as numbers (n, d)."""
        # Only a strictly higher score displaces an earlier row.
        entry = self._rows[-1].score if len(self._rows) == self._limit else -np.inf
        candidates = np.flatnonzero(scores > entry)
        if len(candidates) == 0:
            return
        best = candidates[np.argsort(-scores[candidates], kind="stable")[: self._limit]]
        taken = rows.take(pa.array(best)).to_pylist()
        self._rows += [
            TopRow(
                row=first_row + int(i),
                score=float(scores[i]),
                x=np.array(x[i]),
                values={name: json_value(value) for name, value in values.items()},
            )
            for i, values in zip(best, taken, strict=True)
        ]
        self._rows.sort(key=lambda item: (-item.score, item.row))
        del self._rows[self._limit :]

    def rows(self) -> tuple[TopRow, ...]:
        """Highest score first."""
        return tuple(self._rows)


def json_value(value: Any) -> Any:
    """A cell as JSON can hold it: dates as ISO 8601, long texts cut, what is not a number as None."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, datetime | date):
        return value.isoformat()
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
