"""Looks at a file before a job is stored: in the caller, without loading a library.

A file of up to WHOLE_BYTES is read to its end, of a longer one that much; of Parquet, the footer. What the
work accepts is never refused here; what is not seen here is refused by the work, with the same words.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from pynomaly_tasks.datasets.csv_preview import look_at_csv
from pynomaly_tasks.datasets.gzipped import expanded, nothing_inside
from pynomaly_tasks.datasets.json_preview import look_at_json_lines
from pynomaly_tasks.datasets.limits import Limits
from pynomaly_tasks.datasets.parquet_footer import read_footer
from pynomaly_tasks.datasets.preview import Preview
from pynomaly_tasks.datasets.source import SNIFFED_BYTES, Source, SourceGuard, check_text, explained, refused
from pynomaly_tasks.errors import InvalidInput

#: Read in 20 ms, in the worst layout in 100: a person does not notice, and the caller of many jobs pays once.
WHOLE_BYTES = 2 << 20
_CHUNK_BYTES = 1 << 20
_N_REMEMBERED = 64
_Stamp: TypeAlias = tuple[str, str, int, int, int, int, int]
# The footer's length and the magic number, at the end; PARE where the footer is encrypted.
_PARQUET_TAIL_BYTES = 8
_PARQUET_ENDS = (b"PAR1", b"PARE")


class Looker:
    """Looks at files, and remembers what it saw for as long as they do not change."""

    def __init__(self, guard: SourceGuard, limits: Limits) -> None:
        self._guard = guard
        self._limits = limits
        # Only single operations of dict are used, so threads need no lock, and a fork inherits none.
        self._seen: dict[_Stamp, tuple[Source, Preview]] = {}

    def check(self, source: str, judge: Callable[[Preview], None] | None = None) -> Source:
        """The file behind a source. Raises InvalidDataset, SourceUnavailable, and what judge raises."""
        path = self._guard.locate(source)
        try:
            stamp = _stamp(source, path)
            seen = self._seen.get(stamp)
            if seen is not None and _is_accepted(seen[1], judge):
                return seen[0]
            checked, fd = self._guard.open(source, path)
            try:
                preview = look_at(checked, fd, self._limits)
            finally:
                os.close(fd)
        except OSError as error:
            raise explained(source, error) from error
        if judge is not None:
            judge(preview)
        if len(self._seen) >= _N_REMEMBERED:
            self._seen.clear()
        self._seen[stamp] = checked, preview
        return checked


def _is_accepted(remembered: Preview, judge: Callable[[Preview], None] | None) -> bool:
    """Whether a file may pass by what is remembered of it. If not, it is read again.

    Clocks of file systems are coarse: it may have been written since, with the same time and size. What
    passes for that reason is refused by the work; nothing may be refused for it.
    """
    try:
        if judge is not None:
            judge(remembered)
    except InvalidInput:
        return False
    return True


def _stamp(source: str, path: Path) -> _Stamp:
    """Differs when a source leads to another file, or its content or its rights were changed."""
    status = path.stat()
    return (
        source,
        str(path),
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def look_at(checked: Source, fd: int, limits: Limits) -> Preview:
    """What is certain of an open file. Raises InvalidDataset, and OSError when it cannot be read."""
    if checked.format == "parquet":
        return _look_at_parquet(checked, fd, limits)
    data = _start(expanded(checked, fd) if checked.compressed else _plain(fd))
    if checked.compressed:
        if not data:
            raise nothing_inside(checked.source)
        check_text(checked.source, data[:SNIFFED_BYTES], checked.format)
    whole = len(data) <= WHOLE_BYTES
    look = look_at_json_lines if checked.format == "jsonl" else look_at_csv
    return look(checked.source, data[:WHOLE_BYTES], limits, whole=whole)


def _start(pieces: Iterator[bytes]) -> bytes:
    """More than WHOLE_BYTES where the content is longer."""
    data = bytearray()
    for piece in pieces:
        data += piece
        if len(data) > WHOLE_BYTES:
            break
    return bytes(data)


def _plain(fd: int) -> Iterator[bytes]:
    offset = 0
    while piece := os.pread(fd, _CHUNK_BYTES, offset):
        offset += len(piece)
        yield piece


def _look_at_parquet(checked: Source, fd: int, limits: Limits) -> Preview:
    tail = os.pread(fd, _PARQUET_TAIL_BYTES, checked.size_bytes - _PARQUET_TAIL_BYTES)
    n_footer_bytes = int.from_bytes(tail[:4], "little")
    if tail[4:] not in _PARQUET_ENDS:
        raise refused(f"{checked.source!r} is damaged Parquet: it does not end with PAR1; was it cut off?")
    start = checked.size_bytes - _PARQUET_TAIL_BYTES - n_footer_bytes
    if not n_footer_bytes or start < len(_PARQUET_ENDS[0]):
        raise refused(
            f"{checked.source!r} is damaged Parquet: a footer of {n_footer_bytes:,} bytes does not fit into it"
        )
    # What is needed stands at the footer's start.
    footer = read_footer(os.pread(fd, min(n_footer_bytes, WHOLE_BYTES), start))
    if footer is None:
        return Preview()
    limits.check_names(checked.source, footer.names)
    limits.check_rows(checked.source, footer.n_rows)
    return Preview(names=footer.names, n_rows=footer.n_rows)
