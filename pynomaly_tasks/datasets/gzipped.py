"""Unpacks gzip with a limit, so that a small file cannot fill the disk."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from pynomaly_tasks.datasets.source import SNIFFED_BYTES, Source, check_text, refused
from pynomaly_tasks.errors import InvalidDataset, SourceUnavailable

CHUNK_BYTES = 1 << 20


def unpacked(
    checked: Source, fd: int, directory: Path, max_bytes: int, checkpoint: Callable[[], None] | None
) -> Path:
    """Unpack the file into directory and make fd a descriptor of the unpacked file; its path.

    Raises InvalidDataset when it is damaged, not text, or longer than max_bytes; SourceUnavailable
    when the disk is full.
    """
    target = directory / "unpacked"
    out = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        n_bytes = 0
        for chunk in expanded(checked, fd):
            if n_bytes == 0:
                check_text(checked.source, chunk[:SNIFFED_BYTES], checked.format)
            n_bytes += len(chunk)
            if n_bytes > max_bytes:
                raise refused(
                    f"{checked.source!r} unpacks to more than {max_bytes >> 20:,} MiB; unpack and split it"
                )
            _write(out, chunk)
            if checkpoint is not None:
                checkpoint()
        if n_bytes == 0:
            raise nothing_inside(checked.source)
        os.dup2(out, fd, inheritable=False)
    except OSError as error:
        raise SourceUnavailable(f"{checked.source!r} could not be unpacked: {error.strerror}") from error
    finally:
        os.close(out)
    return target


def expanded(checked: Source, fd: int) -> Iterator[bytes]:
    """The content in pieces of at most CHUNK_BYTES; a file may hold several gzip members.

    Raises InvalidDataset where it is damaged or ends too early.
    """
    packed, offset = b"", 0
    member = zlib.decompressobj(wbits=31)
    try:
        while True:
            if not packed:
                packed = os.pread(fd, CHUNK_BYTES, offset)
                offset += len(packed)
                if not packed:
                    break
            if member.eof:
                packed = packed.lstrip(b"\0")  # tape padding between and after members is legal
                if not packed:
                    continue
                member = zlib.decompressobj(wbits=31)
            piece = member.decompress(packed, CHUNK_BYTES)
            packed = member.unused_data if member.eof else member.unconsumed_tail
            if piece:
                yield piece
        while not member.eof and (piece := member.decompress(b"", CHUNK_BYTES)):
            yield piece
    except zlib.error as error:
        raise refused(f"{checked.source!r} is damaged gzip: {error}") from None
    if not member.eof:
        raise refused(f"{checked.source!r} is cut off: the gzip data ends too early")


def nothing_inside(source: str) -> InvalidDataset:
    """The error for an archive of nothing."""
    return refused(f"{source!r} is empty when unpacked")


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
