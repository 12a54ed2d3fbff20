"""The files that jobs leave, in a directory or an S3 bucket, by key ``<job id>/<attempt>/<name>``."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from pynomaly_tasks.errors import InvalidRequest, InvalidSettings, NotFound, SourceUnavailable

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_SCHEMES = ("s3://",)


class ArtifactStore:
    """Keeps files under url: a directory, or ``s3://bucket/prefix`` (needs the extra ``s3``).

    A file is there whole or not at all, and one key is never written with two contents: each attempt has
    its own. Raises SourceUnavailable when the storage is full or gives no answer.
    """

    def __init__(self, url: str, storage_options: dict[str, Any] | None = None) -> None:
        self._local = None if "://" in url else Path(url).absolute()
        if self._local is None and not url.startswith(_SCHEMES):
            raise InvalidSettings.of(
                "data.artifacts_url", f"{url!r} is neither a directory nor s3://bucket/prefix"
            )
        self._url = url.rstrip("/")
        self._options = storage_options or {}
        self._remote: Any = None

    def put(self, job_id: str, attempt: int, name: str, path: Path) -> str:
        """Keep a copy of the file at path; its key. Raises InvalidRequest for a name that is a path."""
        key = f"{job_id}/{attempt}/{name}"
        _check(key)
        with _mapped_errors(key):
            if self._local is not None:
                _copy_whole(path, self._local / key)
            else:
                self._put_remote(path, key)
        return key

    def open(self, key: str) -> BinaryIO:
        """The file, to be read and closed by the caller. Raises NotFound."""
        _check(key)
        with _mapped_errors(key):
            if self._local is not None:
                return (self._local / key).open("rb")
            return cast("BinaryIO", self._filesystem().open(self.address(key), "rb"))

    def read_bytes(self, key: str) -> bytes:
        """The whole file. Raises NotFound."""
        with self.open(key) as file, _mapped_errors(key):
            return file.read()

    def size_bytes(self, key: str) -> int:
        """Length of the file. Raises NotFound."""
        _check(key)
        with _mapped_errors(key):
            if self._local is not None:
                with (self._local / key).open("rb") as file:
                    return os.fstat(file.fileno()).st_size
            return int(self._filesystem().size(self.address(key)))

    def delete_job(self, job_id: str) -> None:
        """Delete the files of every attempt. A job that left none is fine."""
        _check(job_id)
        with _mapped_errors(job_id), contextlib.suppress(FileNotFoundError):
            if self._local is not None:
                shutil.rmtree(self._local / job_id)
            else:
                self._filesystem().rm(self.address(job_id), recursive=True)

    def list_ids(self) -> list[str]:
        """Whose files are kept here."""
        with _mapped_errors("all"):
            try:
                if self._local is not None:
                    return sorted(path.name for path in self._local.iterdir())
                found = self._filesystem().ls(self._url, detail=False)
            except FileNotFoundError:
                return []
            return sorted(address.rstrip("/").rpartition("/")[2] for address in found)

    def _put_remote(self, path: Path, key: str) -> None:
        try:
            self._filesystem().put_file(str(path), self.address(key))
        except FileNotFoundError as error:
            raise SourceUnavailable(f"cannot keep {key!r}: there is no bucket at {self._url}") from error

    def address(self, key: str) -> str:
        """Where the file is, for people: a path or an s3:// address."""
        return f"{self._url}/{key}"

    def _filesystem(self) -> Any:
        if self._remote is None:
            import fsspec

            try:
                # Another process may have written since: listings must not come from a cache.
                self._remote = fsspec.filesystem("s3", use_listings_cache=False, **self._options)
            except ImportError as error:
                raise InvalidSettings.of(
                    "data.artifacts_url", "s3:// needs the extra: pip install 'pynomaly-tasks[s3]'"
                ) from error
        return self._remote


def _check(key: str) -> None:
    """Refuse a key that could lead out of the store. Raises InvalidRequest."""
    parts = key.split("/")
    if len(parts) > 3 or not all(_PART.fullmatch(part) for part in parts):
        raise InvalidRequest.of(
            "artifact", f"{key[:200]!r} is no key: letters, digits, '_', '-' and '.' in each part"
        )


def _copy_whole(source: Path, target: Path) -> None:
    """Copy under another name, reach the disk, then rename: readers see all of it or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=".part-", dir=target.parent)
    part = Path(name)
    try:
        with os.fdopen(fd, "wb") as out, source.open("rb") as file:
            shutil.copyfileobj(file, out, 1 << 20)
            out.flush()
            os.fsync(out.fileno())
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _no_answer() -> tuple[type[Exception], ...]:
    """What the S3 client raises besides OSError; nothing while it is not loaded."""
    if "botocore" not in sys.modules:
        return ()
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError


@contextlib.contextmanager
def _mapped_errors(key: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound(f"no artifact {key!r}") from error
    except _no_answer() as error:
        raise SourceUnavailable(f"artifact {key!r}: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SourceUnavailable(
                f"no space left to keep {key!r}: make room under data.artifacts_url"
            ) from error
        raise SourceUnavailable(f"artifact {key!r}: {error}") from error
