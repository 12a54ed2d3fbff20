"""Which file a source names, and whether it may be read. Cheap enough for the caller of a job."""

from __future__ import annotations

import codecs
import errno
import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pynomaly_tasks.core.redact import mask_url
from pynomaly_tasks.errors import InvalidDataset, SourceUnavailable

Format = Literal["csv", "parquet", "jsonl"]

#: The last suffix, ``.gz`` taken off, decides the format; the content must agree.
FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
SNIFFED_BYTES = 65_536
_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_UTF16_OR_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_OTHER_FORMATS = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook: unpack it, or save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook: save the sheet as CSV"),
    (b"%PDF", "a PDF document: export its table as CSV"),
    (b"SQLite format 3\x00", "a SQLite database: export the table as CSV"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed: unpack it, or compress it with gzip"),
    (b"BZh", "bzip2-compressed: unpack it, or compress it with gzip"),
    (b"\x93NUMPY", "a numpy array: save it as CSV or Parquet"),
    (b"ARROW1", "an Arrow file: save it as Parquet"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file that may be read, and looks like what its name says."""

    source: str  #: as given
    path: Path  #: absolute, no symlink left in it
    format: Format
    compressed: bool  #: with gzip
    size_bytes: int  #: on disk


def refused(message: str) -> InvalidDataset:
    """The error for the one field that every problem of a dataset belongs to."""
    error = InvalidDataset.of("dataset", message)
    assert isinstance(error, InvalidDataset)
    return error


class SourceGuard:
    """Lets through regular files of a known format that lie under an allowed directory.

    roots: directories; a relative source is looked for in each, in order.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = tuple(root.resolve() for root in roots)

    def open(self, source: str, path: Path | None = None) -> tuple[Source, int]:
        """The file and a descriptor of the very file that was checked; the caller closes it.

        path: what `locate` said, if that was asked already. Raises InvalidDataset, SourceUnavailable.
        """
        path = path or self.locate(source)
        try:
            return self._open(source, path)
        except OSError as error:
            raise explained(source, error) from error

    def locate(self, source: str) -> Path:
        """The resolved path. What lies outside the roots is refused before it is looked at."""
        if not source.strip() or "\0" in source:
            raise refused("is empty or holds a NUL character; give the path of a file")
        if "://" in source:
            # It may hold a password, and what is said here is logged and told.
            raise refused(
                f"{mask_url(source)!r} is a URL; give the path of a file under {self._named_roots()}"
            )
        try:
            inside = self._candidates(Path(source))
            found = next((path for path in inside if path.exists()), None)
        except (OSError, RuntimeError) as error:  # a name too long, a loop of symlinks
            raise refused(f"{source!r} cannot be resolved: {error}") from error
        # What a symlink leads out of a root to is never looked at, so it is not "missing" either.
        if found is None and len(inside) < len(self._roots):
            raise refused(
                f"{source!r} lies outside the allowed directories ({self._named_roots()}); "
                "move the file there, upload it, or add its directory to data.roots"
            )
        if found is None:
            raise refused(f"{source!r} does not exist; looked under {self._named_roots()}")
        return found

    def _candidates(self, path: Path) -> list[Path]:
        return [
            resolved
            for root in self._roots
            if (resolved := (root / path).resolve()).is_relative_to(root)
            or (path.is_absolute() and any(resolved.is_relative_to(other) for other in self._roots))
        ]

    def _open(self, source: str, path: Path) -> tuple[Source, int]:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise refused(f"{source!r} is a directory; name one file in it")
        if not stat.S_ISREG(status.st_mode):
            raise refused(f"{source!r} is a pipe, socket or device; only regular files can be read")
        # A pipe put here since the stat must not block us, nor a symlink lead us away.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or _path_of(fd, path) != path:
                raise refused(f"{source!r} was replaced while it was checked; try again")
            return self._recognised(source, path, fd, status.st_size), fd
        except BaseException:
            os.close(fd)
            raise

    def _recognised(self, source: str, path: Path, fd: int, size_bytes: int) -> Source:
        if size_bytes == 0:
            raise refused(f"{source!r} is empty (0 bytes)")
        suffixes = [suffix.lower() for suffix in path.suffixes]
        compressed = bool(suffixes) and suffixes[-1] == ".gz"
        if compressed:
            suffixes.pop()
        if not suffixes or suffixes[-1] not in FORMATS:
            raise refused(
                f"{source!r} has no known suffix; use one of {', '.join(FORMATS)}, text also with .gz"
            )
        format_ = FORMATS[suffixes[-1]]
        head = os.pread(fd, SNIFFED_BYTES, 0)
        if format_ == "parquet":
            if compressed or size_bytes < 12 or not head.startswith(_PARQUET):
                raise refused(f"{source!r} is named like Parquet but is not: it must start with PAR1")
        elif compressed != head.startswith(_GZIP):
            said = "ends in .gz but is not gzip" if compressed else "is gzip but does not end in .gz"
            raise refused(f"{source!r} {said}; rename it")
        elif not compressed:
            check_text(source, head, format_)
        return Source(source=source, path=path, format=format_, compressed=compressed, size_bytes=size_bytes)

    def _named_roots(self) -> str:
        return ", ".join(str(root) for root in self._roots) or "no directory: data.roots is empty"


def explained(source: str, error: OSError) -> InvalidDataset | SourceUnavailable:
    """What an error of the system means for a source."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return refused(f"{source!r} may not be read by this process; give it read permission")
    if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
        return refused(f"{source!r} was removed or replaced while it was checked; try again")
    return SourceUnavailable(f"{source!r} could not be read: {error.strerror}")


def check_text(source: str, head: bytes, format_: Format) -> None:
    """Refuse the first bytes of a file that cannot be UTF-8 text of this format. Raises InvalidDataset."""
    if head.startswith(_UTF16_OR_32):
        raise refused(
            f"{source!r} is UTF-16 or UTF-32, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8 in > out"
        )
    for magic, advice in _OTHER_FORMATS:
        if head.startswith(magic):
            raise refused(f"{source!r} is {advice}")
    if head.startswith(_PARQUET):
        raise refused(f"{source!r} is Parquet by its content; rename it to end in .parquet")
    at = head.find(b"\0")
    if at >= 0:
        raise not_text(source, at)
    check_utf8(source, head, start=0, last=False)
    stripped = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if not stripped and len(head) < SNIFFED_BYTES:
        raise refused(f"{source!r} holds nothing but blanks")
    if format_ == "jsonl" and not stripped.startswith(b"{"):
        hint = (
            "; turn the array into lines: jq -c '.[]' in.json > out.jsonl"
            if stripped.startswith(b"[")
            else ""
        )
        raise refused(f"{source!r} is not JSON lines: one {{...}} object a line is needed{hint}")


def not_text(source: str, offset: int) -> InvalidDataset:
    """The error for a NUL byte."""
    return refused(f"{source!r} is not text: NUL byte at offset {offset}")


def check_utf8(source: str, data: bytes, *, start: int, last: bool) -> None:
    """Refuse bytes that are not UTF-8, naming the offset. Unless last, a character may be cut off."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final=last)
    except UnicodeDecodeError as error:
        raise refused(
            f"{source!r} is not UTF-8: byte 0x{data[error.start]:02x} at offset {start + error.start}; "
            "convert it: iconv -f LATIN1 -t UTF-8 in.csv > out.csv"
        ) from None


def _path_of(fd: int, path: Path) -> Path:
    """Where an open file lies now, as the kernel sees it; the path itself where it cannot say."""
    if sys.platform != "linux":
        return path
    return Path(f"/proc/self/fd/{fd}").readlink()
