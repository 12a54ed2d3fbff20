"""A table in memory, for detection alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest


@dataclass(frozen=True)
class MemoryColumn:
    name: str
    kind: str


@dataclass(frozen=True)
class MemoryTable:
    rows: pa.Table
    reads: list[int] = field(default_factory=list)  # rows of each batch handed out

    @property
    def n_rows(self) -> int:
        return self.rows.num_rows

    @property
    def columns(self) -> Sequence[MemoryColumn]:
        return tuple(MemoryColumn(f.name, _kind(f.type)) for f in self.rows.schema)

    def batches(self, columns: Sequence[str] | None = None, n_rows: int = 50_000) -> Iterator[pa.RecordBatch]:
        chosen = self.rows if columns is None else self.rows.select(list(columns))
        for batch in chosen.combine_chunks().to_batches(max_chunksize=n_rows):
            self.reads.append(batch.num_rows)
            yield batch

    def sample(self, n_rows: int, seed: int, columns: Sequence[str] | None = None) -> pa.Table:
        chosen = self.rows if columns is None else self.rows.select(list(columns))
        if n_rows >= self.n_rows:
            return chosen
        picked = np.random.default_rng(seed).choice(self.n_rows, n_rows, replace=False)
        return chosen.take(pa.array(np.sort(picked)))


def _kind(type_: pa.DataType) -> str:
    if pa.types.is_boolean(type_):
        return "boolean"
    if pa.types.is_temporal(type_):
        return "datetime"
    return "text" if pa.types.is_string(type_) or pa.types.is_null(type_) else "number"


@dataclass
class Watching:
    """Records progress; stops the work when told to."""

    steps: list[tuple[int, int, str]] = field(default_factory=list)

    def progress(self, current: int, total: int, status: str) -> None:
        self.steps.append((current, total, status))

    def checkpoint(self) -> None:
        return None


@pytest.fixture
def table_of() -> Any:
    def build(columns: Mapping[str, Any]) -> MemoryTable:
        return MemoryTable(pa.table(dict(columns)))

    return build


@pytest.fixture
def watching() -> Watching:
    return Watching()
