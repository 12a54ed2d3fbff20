from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynomaly_tasks.domain.detection.top_rows import MAX_TEXT, TopRows, json_value


@given(st.lists(st.integers(0, 9), min_size=1, max_size=80), st.integers(1, 12), st.integers(1, 30))
def test_the_highest_rows_are_kept_whatever_the_batches(scores: list[int], limit: int, size: int) -> None:
    top = TopRows(limit)
    for start in range(0, len(scores), size):
        part = np.array(scores[start : start + size], dtype=float)
        batch = pa.record_batch({"v": part})
        top.offer(part, start, batch, part[:, None])

    expected = sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:limit]
    assert [row.row for row in top.rows()] == expected
    assert [row.values["v"] for row in top.rows()] == [scores[row] for row in expected]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), None),
        (float("inf"), None),
        (Decimal("1.5"), 1.5),
        (datetime(2024, 1, 2, 3, 4, 5), "2024-01-02T03:04:05"),
        (True, True),
        (None, None),
        ("=cmd()|<b>", "=cmd()|<b>"),
    ],
)
def test_cells_are_fit_for_json(value: object, shown: object) -> None:
    assert json_value(value) == shown
    json.dumps(json_value(value), allow_nan=False)


def test_long_texts_are_cut() -> None:
    assert len(json_value("x" * 10_000)) == MAX_TEXT
