"""Detection in a table: fit on a sample or on all batches, then score batch by batch."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pynomaly_tasks.domain.detection.build import build_detector
from pynomaly_tasks.domain.detection.catalog import DetectorSpec
from pynomaly_tasks.domain.detection.column_rules import MIN_ROWS, too_few_rows
from pynomaly_tasks.domain.detection.detection import Anomaly, Detection, DetectionTask, Filled, Watcher
from pynomaly_tasks.domain.detection.detector import Detector, FloatArray
from pynomaly_tasks.domain.detection.explanation import explain
from pynomaly_tasks.domain.detection.findings import (
    Stores,
    evaluation_of,
    iso,
    plot_of,
    score_quantiles,
    write_scores,
)
from pynomaly_tasks.domain.detection.preparation import Preparation, numbers_of, times_of
from pynomaly_tasks.domain.detection.score_store import ScoreStore
from pynomaly_tasks.domain.detection.table import Table
from pynomaly_tasks.domain.detection.threshold import find_threshold
from pynomaly_tasks.domain.detection.top_rows import TopRows
from pynomaly_tasks.errors import InvalidDataset, InvalidRequest

#: A file of more columns than this shows only the used ones beside an anomaly.
MAX_SHOWN_COLUMNS = 50
#: Cells of one batch; wide files are read in fewer rows at a time.
BATCH_CELLS = 5_000_000
BATCH_ROWS = 50_000


def detect_in_table(
    table: Table,
    task: DetectionTask,
    spec: DetectorSpec,
    preparation: Preparation,
    sample: pa.Table,
    scratch: Path,
    watch: Watcher,
) -> Detection:
    """Find anomalous rows. ``sample`` is what ``preparation`` was made from."""
    entry = spec.entry()
    _check_rows(table.n_rows, spec)
    detector = build_detector(spec, task.seed)
    fill = not entry.takes_missing
    started = time.perf_counter()
    watch.progress(0, table.n_rows, f"fitting {spec.name}")
    _fit(detector, table, task, preparation, sample, fill, watch)
    fitted = time.perf_counter()
    pass_ = _ScoringPass(table, task, preparation, detector, fill, scratch)
    pass_.run(watch)
    scored = time.perf_counter()

    stores = pass_.stores
    threshold = find_threshold(stores.scores, task.threshold)
    scores_file = scratch / "scores.parquet"
    labels = ScoreStore(scratch / "labels.bin", "bool")
    flagged = write_scores(stores, threshold, preparation.timestamp, scores_file, labels)
    n_anomalies = flagged.n_anomalies
    watch.progress(table.n_rows, table.n_rows, "explaining")
    rows = pass_.top.rows()[: min(task.top_n, n_anomalies)]
    reasons = explain(detector, preparation, rows, fill=fill, tick=watch.checkpoint)
    evaluation, evaluation_warnings = evaluation_of(stores, flagged, task.label_windows)
    plot, plot_warnings = plot_of(stores, flagged, kind="scores", y_label="score")
    at = np.array([row.row for row in rows], dtype=np.int64)
    times = None if stores.times is None else stores.times.at(at).view("datetime64[us]")
    return Detection(
        detector=spec,
        seed=task.seed,
        used=preparation.names,
        left_out=preparation.left_out,
        filled=pass_.filled(),
        timestamp=preparation.timestamp,
        label=preparation.label,
        threshold=threshold,
        n_scored=stores.scores.n_rows,
        n_anomalies=n_anomalies,
        score_quantiles=score_quantiles(stores.scores),
        anomalies=[
            Anomaly(
                rank=rank,
                row=row.row,
                timestamp=None if times is None else iso(times[rank - 1]),
                score=row.score,
                values=row.values,
                contributions=contributions,
            )
            for rank, (row, contributions) in enumerate(zip(rows, reasons, strict=True), start=1)
        ],
        plot=plot,
        evaluation=evaluation,
        fit_s=fitted - started,
        score_s=scored - fitted,
        warnings=[
            *pass_.warnings(),
            *getattr(detector, "warnings", ()),
            *threshold.warnings,
            *evaluation_warnings,
            *plot_warnings,
        ],
        scores_file=scores_file,
    )


def _check_rows(n_rows: int, spec: DetectorSpec) -> None:
    if n_rows < MIN_ROWS:
        raise too_few_rows(n_rows)
    limit = spec.entry().max_rows
    if limit is not None and n_rows > limit:
        raise InvalidRequest.of(
            "detector",
            f"{spec.name} takes at most {limit:,} rows and the file has {n_rows:,}; "
            "isolation_forest, ecod, hbos, mahalanobis, inne, knn and lof take any number",
        )


def _fit(
    detector: Detector,
    table: Table,
    task: DetectionTask,
    preparation: Preparation,
    sample: pa.Table,
    fill: bool,
    watch: Watcher,
) -> None:
    n_fit = detector.fit_rows(table.n_rows)
    if n_fit is None and sample.num_rows < table.n_rows:
        done = 0
        for batch in table.batches(preparation.names, batch_rows(len(preparation.used))):
            x, _ = preparation.matrix(batch)
            detector.update(preparation.fill(x) if fill else x)  # type: ignore[attr-defined]  # it streams
            done += batch.num_rows
            watch.progress(done, table.n_rows, "fitting on all rows")
        return
    if n_fit is not None and n_fit > sample.num_rows:
        rows = table.sample(n_fit, task.seed, preparation.names)
    elif n_fit is not None and n_fit < sample.num_rows:
        chosen = np.random.default_rng(task.seed).choice(sample.num_rows, n_fit, replace=False)
        rows = sample.take(pa.array(np.sort(chosen)))
    else:
        rows = sample
    x, _ = preparation.matrix(rows)
    detector.fit(preparation.fill(x) if fill else x, watch.checkpoint)


def batch_rows(n_columns: int) -> int:
    """Rows read at once."""
    return max(1_000, min(BATCH_ROWS, BATCH_CELLS // max(n_columns, 1)))


class _ScoringPass:
    """Reads the file once, in order: scores, times and truth to disk, the highest rows in memory."""

    def __init__(
        self,
        table: Table,
        task: DetectionTask,
        preparation: Preparation,
        detector: Detector,
        fill: bool,
        scratch: Path,
    ) -> None:
        self._table = table
        self._preparation = preparation
        self._detector = detector
        self._fill = fill
        self._n_missing: NDArray[np.int64] = np.zeros(len(preparation.used), dtype=np.int64)
        self._n_huge: NDArray[np.int64] = np.zeros(len(preparation.used), dtype=np.int64)
        self.top = TopRows(task.top_n)
        self.stores = Stores(
            scores=ScoreStore(scratch / "scores.bin"),
            times=ScoreStore(scratch / "times.bin", "int64") if preparation.timestamp else None,
            truth=ScoreStore(scratch / "truth.bin", "int8") if preparation.label else None,
        )

    def run(self, watch: Watcher) -> None:
        total = self._table.n_rows
        names = self._columns()
        for batch in self._table.batches(names, batch_rows(len(names))):
            first_row = self.stores.scores.n_rows
            x = self._numbers(batch)
            score = self._score(x, watch)
            self.stores.scores.append(score)
            self.top.offer(score, first_row, batch, x)
            self._keep(batch)
            watch.progress(self.stores.scores.n_rows, total, "scoring rows")

    def filled(self) -> Sequence[Filled]:
        """Columns in which values were missing, and what the detector saw instead."""
        out = []
        for column, n_missing in zip(self._preparation.used, self._n_missing, strict=True):
            if n_missing:
                what = (
                    f"the median of the sample, {column.median:g}"
                    if self._fill
                    else "nothing: taken as missing"
                )
                out.append(Filled(column=column.name, n_missing=int(n_missing), with_=what))
        return out

    def warnings(self) -> list[str]:
        return [
            f"{column.name}: {int(n):,} values that are infinite or beyond 1e37 are taken as missing"
            for column, n in zip(self._preparation.used, self._n_huge, strict=True)
            if n
        ]

    def _columns(self) -> list[str]:
        everything = [column.name for column in self._table.columns]
        if len(everything) <= MAX_SHOWN_COLUMNS:
            return everything
        extra = (self._preparation.timestamp, self._preparation.label)
        return [*self._preparation.names, *(name for name in extra if name is not None)]

    def _numbers(self, batch: pa.RecordBatch) -> FloatArray:
        x, n_huge = self._preparation.matrix(batch)
        self._n_missing += np.isnan(x).sum(axis=0)
        self._n_huge += n_huge
        return x

    def _score(self, raw: FloatArray, watch: Watcher) -> FloatArray:
        x = self._preparation.fill(raw) if self._fill else raw
        step = self._detector.score_rows
        score = np.empty(len(x))
        for start in range(0, len(x), step):
            watch.checkpoint()
            score[start : start + step] = self._detector.score(x[start : start + step])
        if not np.isfinite(score).all():
            raise InvalidDataset.of(
                "dataset",
                "the detector's arithmetic does not hold for these values (a score is not finite); "
                "leave out columns of extreme size or choose ecod",
            )
        return score

    def _keep(self, batch: pa.RecordBatch) -> None:
        if self.stores.times is not None:
            times = times_of(batch.column(self._preparation.timestamp))
            self.stores.times.append(times.view(np.int64))
        if self.stores.truth is not None and self._preparation.label is not None:
            self.stores.truth.append(truth_of(batch.column(self._preparation.label), self._preparation.label))


_TRUE = {"1", "true", "yes", "anomaly", "anomalous", "outlier", "abnormal"}
_FALSE = {"0", "false", "no", "normal", "usual", "inlier"}


def truth_of(values: Any, name: str) -> NDArray[np.int8]:
    """A label column as 1 (anomaly), 0 (usual), -1 (missing). Raises InvalidRequest for any other value."""
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        known = {**dict.fromkeys(_TRUE, 1), **dict.fromkeys(_FALSE, 0)}
        out = np.empty(len(values), dtype=np.int8)
        for i, text in enumerate(pc.utf8_lower(pc.utf8_trim_whitespace(values)).to_pylist()):
            label = -1 if not text else known.get(text)
            if label is None:
                raise _bad_label(name, text)
            out[i] = label
        return out
    numbers = numbers_of(values)
    missing = np.isnan(numbers)
    odd = ~missing & (numbers != 0.0) & (numbers != 1.0)
    if odd.any():
        raise _bad_label(name, f"{numbers[odd][0]:g}")
    return np.where(missing, -1, numbers == 1.0).astype(np.int8)


def _bad_label(name: str, value: object) -> InvalidRequest:
    return InvalidRequest.of(
        "label_column",
        f"{name!r} holds {str(value)[:40]!r}; a label is 1 or 0, true or false, anomaly or normal, or empty",
    )


def sample_rows_for(n_rows: int, n_columns: int) -> int:
    """Rows of the sample a file is judged by: 50,000, or fewer of a wide file (25 million cells)."""
    return min(n_rows, max(1_000, min(50_000, math.floor(25_000_000 / max(n_columns, 1)))))
