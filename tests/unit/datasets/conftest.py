"""An opener whose only root is a directory of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pynomaly_tasks.datasets import Dataset, DatasetOpener

REAL_DATA = Path(__file__).parents[2] / "data" / "profiling"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def opener(root: Path, tmp_path: Path) -> DatasetOpener:
    return DatasetOpener(
        [root, REAL_DATA],
        max_columns=2_000,
        max_rows=1_000_000,
        memory_limit_mb=256,
        temp_directory=tmp_path / "temporary",
        max_expanded_mb=8,
    )


@pytest.fixture
def open_text(root: Path, opener: DatasetOpener) -> Callable[..., Dataset]:
    """Writes a file and opens it."""

    def open_(content: str | bytes, name: str = "data.csv") -> Dataset:
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return opener.open(name)

    return open_
