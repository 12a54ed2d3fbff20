"""A file that arrives in a request, written to disk as it comes: never held in memory, never half there."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from pynomaly_tasks.errors import InvalidDataset

FIELD = "file"
_PART_PREFIX = ".incoming-"
_WRITE_BYTES = 1024 * 1024
_MAX_NAME_CHARS = 120
_UNSAFE = re.compile(r"[^\w.-]+", re.ASCII)
_SUFFIXES = re.compile(r"(\.[A-Za-z0-9]{1,8}){1,2}\Z")


def safe_name(name: str) -> str:
    """The file's name without directories, blanks, markup or a leading dot; its suffix stays.

    >>> safe_name("../../etc/Größe <b>(2).csv"), safe_name("日本語.csv.gz")
    ('Grosse_b_2.csv', 'upload.csv.gz')
    """
    base = name.replace("\\", "/").rpartition("/")[2].replace("ß", "ss")
    found = _SUFFIXES.search(base)
    suffixes = found.group() if found else ""
    plain = unicodedata.normalize("NFKD", base.removesuffix(suffixes)).encode("ascii", "ignore").decode()
    stem = _UNSAFE.sub("_", plain).strip("._-")[: _MAX_NAME_CHARS - len(suffixes)]
    return f"{stem or 'upload'}{suffixes}"


class Upload:
    """One multipart body with one file. Use as a context manager: what was not kept is removed."""

    def __init__(self, content_type: str, directory: Path) -> None:
        """Raises InvalidDataset when the content type has no boundary."""
        _, parameters = parse_options_header(content_type)
        boundary = parameters.get(b"boundary")
        if not boundary:
            raise InvalidDataset.of(FIELD, "send multipart/form-data with a boundary")
        self._directory = directory
        self._path = directory / f"{_PART_PREFIX}{uuid4().hex}"
        self._file: BinaryIO | None = None
        self._name: str | None = None
        self._in_file = False
        self._ended = False
        self._buffer = bytearray()
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self.n_bytes = 0
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )

    def __enter__(self) -> Upload:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("xb")
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._file is not None:
            self._file.close()
        self._path.unlink(missing_ok=True)

    async def receive(self, chunks: AsyncIterator[bytes]) -> None:
        """Write the file as it arrives. Raises InvalidDataset when it has none, OSError on a full disk."""
        try:
            async for chunk in chunks:
                self._parser.write(chunk)
                if len(self._buffer) >= _WRITE_BYTES:
                    await run_in_threadpool(self._flush)
            self._parser.finalize()
        except FormParserError as error:
            raise InvalidDataset.of(FIELD, f"the multipart body cannot be read: {error}") from error
        if not self._ended:
            raise InvalidDataset.of(FIELD, "the multipart body ends before the file does; send it again")
        if self._name is None:
            raise InvalidDataset.of(FIELD, f"the form has no file in its field {FIELD!r}; add one")
        await run_in_threadpool(self._finish)

    def keep(self) -> Path:
        """Give the file its name, at once and whole; another number where the name is taken."""
        wanted = Path(safe_name(self._name or ""))
        stem, _, suffixes = wanted.name.partition(".")
        for number in range(1, 10_000):
            name = wanted.name if number == 1 else f"{stem}-{number}{'.' if suffixes else ''}{suffixes}"
            try:
                os.link(self._path, self._directory / name)
            except FileExistsError:
                continue
            return self._directory / name
        raise InvalidDataset.of(FIELD, f"10,000 uploads are named {wanted.name} already; choose another name")

    def _flush(self) -> None:
        assert self._file is not None
        self._file.write(self._buffer)
        self._buffer.clear()

    def _finish(self) -> None:
        assert self._file is not None
        self._flush()
        self._file.flush()
        os.fsync(self._file.fileno())

    def _part_begin(self) -> None:
        self._disposition = b""
        self._header = (bytearray(), bytearray())

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _header_end(self) -> None:
        if bytes(self._header[0]).lower() == b"content-disposition":
            self._disposition = bytes(self._header[1])
        self._header = (bytearray(), bytearray())

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._in_file = options.get(b"name") == FIELD.encode() and b"filename" in options
        if self._in_file:
            if self._name is not None:
                raise InvalidDataset.of(FIELD, "send one file a request")
            self._name = options[b"filename"].decode("utf-8", "replace")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._buffer += data[start:end]
            self.n_bytes += end - start

    def _part_end(self) -> None:
        self._in_file = False

    def _end(self) -> None:
        self._ended = True


def remove_abandoned(directory: Path, older_than_at: float) -> None:
    """Remove what a crash left of uploads that began before this time (epoch, s)."""
    for path in directory.glob(f"{_PART_PREFIX}*"):
        if path.stat().st_mtime < older_than_at:
            path.unlink(missing_ok=True)
