from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynomaly_tasks.domain.detection import score_store
from pynomaly_tasks.domain.detection.score_store import ScoreStore


def stored(path: Path, values: np.ndarray) -> ScoreStore:
    store = ScoreStore(path / "scores.bin")
    for part in np.array_split(values, 3):
        store.append(part)
    return store


def test_scores_come_back_in_order(tmp_path: Path) -> None:
    store = stored(tmp_path, np.arange(10.0))

    assert store.n_rows == 10
    np.testing.assert_array_equal(np.concatenate(list(store.chunks(4))), np.arange(10.0))


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), min_size=1, max_size=300), st.data()
)
def test_order_statistics_on_disk_equal_sorting(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], data: Any
) -> None:
    rank = data.draw(st.integers(0, len(values) - 1))
    store = stored(tmp_path_factory.mktemp("scores"), np.array(values))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_store, "IN_MEMORY", 0)
        patch.setattr(score_store.ScoreStore.chunks, "__defaults__", (7,))
        on_disk = store.ascending([rank])

    assert on_disk == [sorted(values)[rank]]


def test_order_statistics_in_memory_equal_sorting(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=1_000)

    assert stored(tmp_path, values).ascending([999, 0, 500]) == np.sort(values)[[999, 0, 500]].tolist()


@pytest.mark.parametrize("step", [1, 3, 7])
def test_every_nth_row_is_counted_across_chunks(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_store, "CHUNK_ROWS", 10)
    values = np.arange(95.0)

    assert stored(tmp_path, values).every(step).tolist() == values[::step].tolist()


def test_rows_are_read_by_number(tmp_path: Path) -> None:
    store = stored(tmp_path, np.arange(20.0))

    assert store.at(np.array([19, 0, 5])).tolist() == [19.0, 0.0, 5.0]
    assert store.read(18, 25).tolist() == [18.0, 19.0]
