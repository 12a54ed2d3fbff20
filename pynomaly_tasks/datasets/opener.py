"""Opens a source as a dataset, with every check that the data itself needs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pynomaly_tasks.datasets.dataset import Dataset, Relation
from pynomaly_tasks.datasets.engine import Engine, Workspace
from pynomaly_tasks.datasets.first_look import Looker
from pynomaly_tasks.datasets.gzipped import unpacked
from pynomaly_tasks.datasets.limits import Limits
from pynomaly_tasks.datasets.preview import Preview
from pynomaly_tasks.datasets.source import Source, SourceGuard
from pynomaly_tasks.errors import SourceUnavailable


class DatasetOpener:
    """Opens files that lie under the allowed directories.

    roots: directories that may be read. memory_limit_mb: what duckdb may use for one dataset, in MiB;
    past it, it spills to temp_directory. max_expanded_mb: largest size of a .gz file when unpacked, in MiB.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        max_columns: int,
        max_rows: int,
        memory_limit_mb: int,
        temp_directory: Path,
        threads: int = 1,
        max_expanded_mb: int = 65_536,
    ) -> None:
        self._guard = SourceGuard(roots)
        self._limits = Limits(n_columns=max_columns, n_rows=max_rows)
        self._looker = Looker(self._guard, self._limits)
        self._memory_limit_mb = memory_limit_mb
        self._temp_directory = temp_directory
        self._threads = threads
        self._max_expanded_bytes = max_expanded_mb << 20

    def check(self, source: str, judge: Callable[[Preview], None] | None = None) -> Source:
        """What can be found wrong before a job is stored; see `first_look`.

        judge raises when what was seen of the file does not fit what is asked of it. The same file is
        read once for many calls. Raises InvalidDataset, SourceUnavailable, and what judge raises.
        """
        return self._looker.check(source, judge)

    def open(self, source: str, checkpoint: Callable[[], None] | None = None) -> Dataset:
        """The dataset, every row of it read once unless it is Parquet.

        CSV and JSON lines are loaded into a compressed columnar file in temp_directory, so that every
        later pass is fast and sees the same rows. checkpoint is called during the loading; what it
        raises stops it. Raises InvalidDataset, SourceUnavailable.
        """
        checked, fd = self._guard.open(source)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, fd)
            workspace = self._workspace()
            undo.callback(workspace.remove)
            path = checked.path
            if checked.compressed:
                path = unpacked(checked, fd, workspace.path, self._max_expanded_bytes, checkpoint)
            engine = Engine(source, fd, path, workspace, self._memory_limit_mb, self._threads)
            undo.pop_all()
            undo.callback(engine.close)
            relation = self._load(checked, fd, engine, checkpoint)
            dataset = Dataset(
                source=source,
                name=checked.path.name,
                format_=checked.format,
                size_bytes=checked.size_bytes,
                engine=engine,
                relation=relation,
            )
            undo.pop_all()
            return dataset

    def _workspace(self) -> Workspace:
        try:
            Workspace.sweep(self._temp_directory)
            return Workspace(self._temp_directory)
        except OSError as error:
            raise SourceUnavailable(
                f"no temporary files can be made under {self._temp_directory}: {error.strerror}"
            ) from error

    def _load(
        self, checked: Source, fd: int, engine: Engine, checkpoint: Callable[[], None] | None
    ) -> Relation:
        if checked.format == "parquet":
            from pynomaly_tasks.datasets.parquet import load
        elif checked.format == "jsonl":
            from pynomaly_tasks.datasets.json_lines import load
        else:
            from pynomaly_tasks.datasets.csv_text import load
        return load(checked, fd, engine, self._limits, checkpoint)
