"""The scores of a file of any length, on disk; order statistics and labels in flat memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pynomaly_tasks.domain.detection.detector import FloatArray

#: Up to this many scores (32 MB) are sorted in memory; more are counted digit by digit on disk.
IN_MEMORY = 4_000_000
CHUNK_ROWS = 1_000_000
_DIGIT_BITS = 16


class ScoreStore:
    """Appends one array after another to a file; reads it back in chunks. Keeps no file open."""

    def __init__(self, path: Path, dtype: str = "float64") -> None:
        self.n_rows = 0
        self._path = path
        self._dtype = np.dtype(dtype)
        path.write_bytes(b"")

    def append(self, values: NDArray[np.generic]) -> None:
        """Add the next rows."""
        with self._path.open("ab") as file:
            file.write(np.ascontiguousarray(values, dtype=self._dtype).tobytes())
        self.n_rows += len(values)

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        """Rows ``start`` to before ``stop``."""
        count = max(0, min(stop, self.n_rows) - start)
        # Read, not mapped: mapped pages would count as the process's memory, as long as the file.
        return np.fromfile(self._path, self._dtype, count, offset=start * self._dtype.itemsize)

    def at(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """Some rows, in the order asked for."""
        if self.n_rows == 0:
            return np.empty(0, dtype=self._dtype)
        return np.array(np.memmap(self._path, dtype=self._dtype, mode="r")[rows])

    def every(self, step: int) -> NDArray[np.generic]:
        """Each ``step``-th row, from the first."""
        parts = [
            self.read(row, row + CHUNK_ROWS)[-row % step :: step] for row in range(0, self.n_rows, CHUNK_ROWS)
        ]
        return np.concatenate(parts) if parts else np.empty(0, dtype=self._dtype)

    def chunks(self, n_rows: int = CHUNK_ROWS) -> Iterator[NDArray[np.generic]]:
        """In order, ``n_rows`` at a time."""
        for start in range(0, self.n_rows, n_rows):
            yield self.read(start, start + n_rows)

    def ascending(self, ranks: Sequence[int]) -> list[float]:
        """The scores at these ranks, from 0 for the lowest; exact."""
        if self.n_rows <= IN_MEMORY:
            ordered = np.partition(self.every(1).astype(np.float64), sorted(set(ranks)))
            return [float(ordered[rank]) for rank in ranks]
        return [self._by_digits(rank) for rank in ranks]

    def _by_digits(self, rank: int) -> float:
        prefix, remaining = 0, rank
        for shift in range(64 - _DIGIT_BITS, -1, -_DIGIT_BITS):
            counts = np.zeros(1 << _DIGIT_BITS, dtype=np.int64)
            for chunk in self.chunks():
                keys = _ordered_keys(chunk.astype(np.float64))
                if shift + _DIGIT_BITS < 64:
                    keys = keys[keys >> np.uint64(shift + _DIGIT_BITS) == np.uint64(prefix)]
                digits = (keys >> np.uint64(shift)) & np.uint64((1 << _DIGIT_BITS) - 1)
                counts += np.bincount(digits.astype(np.int64), minlength=1 << _DIGIT_BITS)
            cumulative = np.cumsum(counts)
            digit = int(np.searchsorted(cumulative, remaining, side="right"))
            remaining -= int(cumulative[digit - 1]) if digit else 0
            prefix = (prefix << _DIGIT_BITS) | digit
        return _value_of_key(prefix)


_SIGN = np.uint64(1 << 63)


def _ordered_keys(values: FloatArray) -> NDArray[np.uint64]:
    """Unsigned integers in the order of the values; -0.0 counts as 0.0."""
    bits = (values + 0.0).view(np.uint64)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _value_of_key(key: int) -> float:
    bits = key ^ (1 << 63) if key >> 63 else ~key & ((1 << 64) - 1)
    return float(np.array([bits], dtype=np.uint64).view(np.float64)[0])
