"""Detection from a table to what was found: chooses the way, and the detector where none is named."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from pynomaly_tasks.domain.detection.catalog import DetectorSpec
from pynomaly_tasks.domain.detection.column_rules import windows_without_timestamp
from pynomaly_tasks.domain.detection.detection import Detection, DetectionTask, Watcher
from pynomaly_tasks.domain.detection.preparation import Preparation, prepare
from pynomaly_tasks.domain.detection.run_series import detect_in_series
from pynomaly_tasks.domain.detection.run_tabular import detect_in_table, sample_rows_for
from pynomaly_tasks.domain.detection.table import Table

DEFAULT_FOR_TABLES = "isolation_forest"
DEFAULT_FOR_SERIES = "rolling_robust_z"


def detect(table: Table, task: DetectionTask, scratch: Path, watch: Watcher) -> Detection:
    """Find the anomalies of a file.

    Without a named detector, dates beside one column of numbers are a time series, for rolling_robust_z;
    anything else is a table, for isolation_forest.
    """
    watch.progress(0, table.n_rows, "reading a sample")
    names = _sampled_columns(table, task)
    n_sampled = sample_rows_for(table.n_rows, len(names))
    sample = table.sample(n_sampled, task.seed, names) if names else pa.table({})
    preparation = prepare(
        table,
        sample,
        columns=task.columns,
        timestamp_column=task.timestamp_column,
        label_column=task.label_column,
    )
    if task.label_windows and preparation.timestamp is None:
        raise windows_without_timestamp()
    watch.checkpoint()
    spec = task.detector or _default(preparation)
    if spec.entry().kind == "series":
        return detect_in_series(table, task, spec, preparation, scratch, watch)
    return detect_in_table(table, task, spec, preparation, sample, scratch, watch)


def _sampled_columns(table: Table, task: DetectionTask) -> list[str]:
    known = [column.name for column in table.columns]
    if task.columns is not None:
        return [name for name in known if name in task.columns]
    # Texts that nobody named are left out whatever they hold: they need not be read.
    return [column.name for column in table.columns if column.kind in ("number", "boolean")]


def _default(preparation: Preparation) -> DetectorSpec:
    is_series = preparation.timestamp is not None and len(preparation.used) == 1
    return DetectorSpec(name=DEFAULT_FOR_SERIES if is_series else DEFAULT_FOR_TABLES)
