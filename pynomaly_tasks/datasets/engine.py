"""A duckdb of one dataset's own: locked to one file, with limits on memory, threads and disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pynomaly_tasks.datasets.csv_dialect import open_quote, wrong_field_count
from pynomaly_tasks.datasets.json_objects import NO_KEYS, TOO_DEEP
from pynomaly_tasks.datasets.source import refused
from pynomaly_tasks.errors import PynomalyError, SourceUnavailable

if TYPE_CHECKING:
    import duckdb

T = TypeVar("T")
WORKSPACE_PREFIX = "dataset-"
# A job must notice within half a second that it has to stop.
CHECKPOINT_EVERY_S = 0.2
# duckdb draws one on standard output when it takes the process for interactive; each connection has its own.
NO_PROGRESS_BAR = "SET enable_progress_bar=false"
MIXED_LINE_ENDS = "cannot be read: lines end in different ways; make them alike: sed -i 's/\\r$//' data.csv"


class Workspace:
    """A directory that goes with its dataset; after a kill, at the next opening of any dataset.

    The lock on the file in it is held by the kernel for as long as the process lives.
    """

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(prefix=WORKSPACE_PREFIX, dir=parent))
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def remove(self) -> None:
        """Delete the directory and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    @staticmethod
    def sweep(parent: Path) -> int:
        """Remove what killed processes left under parent; the number of directories removed."""
        n_removed = 0
        for path in parent.glob(f"{WORKSPACE_PREFIX}*"):
            with contextlib.suppress(OSError):  # gone, locked by its owner, or too young to have a lock
                fd = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
                    n_removed += 1
                finally:
                    os.close(fd)
        return n_removed


class Engine:
    """The database behind one dataset. It can read the one file and its own workspace, nothing else."""

    def __init__(
        self, source: str, fd: int, path: Path, workspace: Workspace, memory_limit_mb: int, threads: int
    ) -> None:
        import duckdb

        self.source = source
        self.workspace = workspace
        self._fd = fd
        # The descriptor is the file that was checked, whatever is put at its path later.
        self.file = f"/proc/self/fd/{fd}" if sys.platform == "linux" else str(path)
        with mapped_errors(source):
            self.connection = duckdb.connect(
                str(workspace.path / "data.duckdb"),
                config={
                    "memory_limit": f"{memory_limit_mb}MiB",
                    "threads": str(threads),
                    "temp_directory": str(workspace.path / "spill"),
                    "autoinstall_known_extensions": "false",
                    "autoload_known_extensions": "false",
                    "allow_community_extensions": "false",
                    "allow_persistent_secrets": "false",
                },
            )
            # Text dates without an offset are UTC, whatever the machine's zone is.
            self.connection.execute("SET GLOBAL TimeZone='UTC'")
            self.connection.execute(f"SET allowed_paths=[{quoted_text(self.file)}]")
            self.connection.execute("SET enable_external_access=false")
            self.connection.execute("SET allowed_configs=['enable_progress_bar']")
            self.connection.execute("SET lock_configuration=true")
        self.connection.execute(NO_PROGRESS_BAR)

    def close(self) -> None:
        """Close the database and the file, and delete the workspace."""
        self.connection.close()
        os.close(self._fd)
        self.workspace.remove()

    def execute(self, sql: str, checkpoint: Callable[[], None] | None = None) -> list[tuple[Any, ...]]:
        """The rows of one statement. Raises InvalidDataset, SourceUnavailable, and what checkpoint raises."""

        def run() -> list[tuple[Any, ...]]:
            return self.connection.execute(sql).fetchall()

        with mapped_errors(self.source):
            return run() if checkpoint is None else interruptible(self.connection, run, checkpoint)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """One more connection to the same database, for one thread."""
        cursor = self.connection.cursor()
        cursor.execute(NO_PROGRESS_BAR)
        return cursor


def interruptible(
    connection: duckdb.DuckDBPyConnection, work: Callable[[], T], checkpoint: Callable[[], None]
) -> T:
    """Run work in a thread, call checkpoint five times a second here; what it raises ends the query."""
    outcome: list[T] = []
    failure: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            failure.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=run, name="duckdb-query", daemon=True)
    thread.start()
    try:
        while not ended.wait(CHECKPOINT_EVERY_S):
            checkpoint()
    except BaseException:
        # An interrupt that arrives before the query has started is forgotten: say it until it ends.
        while not ended.is_set():
            connection.interrupt()
            ended.wait(0.05)
        raise
    finally:
        thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def quoted_name(name: str) -> str:
    """A column name as an SQL identifier, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def quoted_text(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


@contextlib.contextmanager
def mapped_errors(source: str) -> Iterator[None]:
    """Turn duckdb's errors into ours."""
    import duckdb

    try:
        yield
    except PynomalyError:
        raise
    except duckdb.OutOfMemoryException as error:
        raise SourceUnavailable(
            f"{source!r} needs more memory or temporary disk than is allowed: raise data.memory_limit_mb "
            f"or make room ({_first_line(error)})"
        ) from error
    except duckdb.IOException as error:
        if "No space left" in str(error):
            raise SourceUnavailable(
                f"no space left for temporary files while {source!r} was read: make room"
            ) from error
        if "arquet" in str(error):
            raise refused(f"{source!r} is damaged: {_first_line(error)}") from error
        raise SourceUnavailable(f"{source!r} could not be read: {_first_line(error)}") from error
    except duckdb.Error as error:
        raise refused(f"{source!r} {explained(str(error))}") from error


def explained(message: str) -> str:
    """What a duckdb message means for the file: the line and the fault, without advice on SQL options."""
    message = re.sub(r' in file "[^"]*"', "", message)
    if "recursion depth" in message:
        return TOO_DEEP
    line = re.search(r"(?:CSV Error on Line: |in line )(\d+)", message)
    number = int(line.group(1)) if line else None
    where = "" if number is None else f"line {number}: "
    counts = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message)
    if counts:
        expected, found = map(int, counts.groups())
        return wrong_field_count(number, found, expected)
    if "unterminated quote" in message or "quote should be followed" in message.lower():
        return open_quote(number)
    if "expected records" in message:
        return NO_KEYS
    if "/proc/self/fd/" in message and "Permission Error" in message:
        return "was replaced while it was read; submit the job again"
    if "invalid state" in message:
        return MIXED_LINE_ENDS
    if "Maximum line size" in message:
        return f"{where}is longer than 2 MiB; is a quote left open, or a line end missing?"
    if "Malformed JSON" in message:
        detail = re.search(r"at byte \d+ in line \d+: (.*?)\.?\s*$", message.splitlines()[0])
        return f"{where}is not valid JSON" + (f": {detail.group(1)}" if detail else "")
    return f"cannot be read: {_first_line(message)}"


def _first_line(error: object) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
