"""Detection in one series: the whole of it in memory, in the order of its times."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pynomaly_tasks.domain.detection.catalog import DetectorSpec
from pynomaly_tasks.domain.detection.detection import Anomaly, Detection, DetectionTask, Filled, Watcher
from pynomaly_tasks.domain.detection.detector import FloatArray
from pynomaly_tasks.domain.detection.explanation import Contribution
from pynomaly_tasks.domain.detection.findings import (
    Stores,
    evaluation_of,
    iso,
    plot_of,
    score_quantiles,
    write_scores,
)
from pynomaly_tasks.domain.detection.preparation import Preparation, times_of
from pynomaly_tasks.domain.detection.run_tabular import BATCH_ROWS, truth_of
from pynomaly_tasks.domain.detection.score_store import ScoreStore
from pynomaly_tasks.domain.detection.series import SeriesScores, score_series
from pynomaly_tasks.domain.detection.table import Table
from pynomaly_tasks.domain.detection.threshold import find_threshold
from pynomaly_tasks.errors import InvalidRequest


def detect_in_series(
    table: Table,
    task: DetectionTask,
    spec: DetectorSpec,
    preparation: Preparation,
    scratch: Path,
    watch: Watcher,
) -> Detection:
    """Find anomalous points of the one used column."""
    column = _only_column(preparation, spec)
    limit = spec.entry().max_rows
    if limit is not None and table.n_rows > limit:
        raise InvalidRequest.of(
            "detector",
            f"{spec.name} takes at most {limit:,} points and the file has {table.n_rows:,}; "
            "cut the file, or choose a detector for tables",
        )
    stores = Stores(
        scores=ScoreStore(scratch / "scores.bin"),
        times=ScoreStore(scratch / "times.bin", "int64") if preparation.timestamp else None,
        truth=ScoreStore(scratch / "truth.bin", "int8") if preparation.label else None,
    )
    started = time.perf_counter()
    values, n_huge = _read(table, preparation, column, stores, watch)
    times = None
    if stores.times is not None:
        times = stores.times.every(1).view("datetime64[us]")
    read = time.perf_counter()
    watch.progress(0, table.n_rows, f"scoring with {spec.name}")
    nanoseconds = None if times is None else times.astype("datetime64[ns]")
    found = score_series(spec.name, spec.typed_params(), nanoseconds, values, task.seed)
    stores.scores.append(found.score)
    scored = time.perf_counter()

    watch.progress(table.n_rows, table.n_rows, "explaining")
    threshold = find_threshold(stores.scores, task.threshold)
    scores_file = scratch / "scores.parquet"
    labels = ScoreStore(scratch / "labels.bin", "bool")
    flagged = write_scores(stores, threshold, preparation.timestamp, scores_file, labels)
    n_anomalies = flagged.n_anomalies
    evaluation, evaluation_warnings = evaluation_of(stores, flagged, task.label_windows)
    plot, plot_warnings = plot_of(stores, flagged, kind="series", y_label=column, values=values)
    n_missing = int(np.count_nonzero(np.isnan(values)))
    warnings = list(found.warnings)
    if n_huge:
        warnings.append(f"{column}: {n_huge:,} values that are infinite or beyond 1e37 are taken as missing")
    filled = [Filled(column=column, n_missing=n_missing, with_="nothing: scored apart")] if n_missing else []
    return Detection(
        detector=spec,
        seed=task.seed,
        used=(column,),
        left_out=preparation.left_out,
        filled=filled,
        timestamp=preparation.timestamp,
        label=preparation.label,
        threshold=threshold,
        n_scored=len(values),
        n_anomalies=n_anomalies,
        score_quantiles=score_quantiles(stores.scores),
        anomalies=_anomalies(column, found, values, times, min(task.top_n, n_anomalies)),
        plot=plot,
        evaluation=evaluation,
        fit_s=read - started,
        score_s=scored - read,
        warnings=[*warnings, *threshold.warnings, *evaluation_warnings, *plot_warnings],
        scores_file=scores_file,
    )


def _only_column(preparation: Preparation, spec: DetectorSpec) -> str:
    if len(preparation.used) == 1:
        return preparation.used[0].name
    raise InvalidRequest.of(
        "columns",
        f"{spec.name} looks at one column of numbers and {len(preparation.used)} are usable: "
        f"name one of {', '.join(preparation.names[:50])}",
    )


def _read(
    table: Table, preparation: Preparation, column: str, stores: Stores, watch: Watcher
) -> tuple[FloatArray, int]:
    names = [column, *(n for n in (preparation.timestamp, preparation.label) if n is not None)]
    parts: list[FloatArray] = []
    n_read = n_huge = 0
    for batch in table.batches(names, BATCH_ROWS):
        part, huge = preparation.matrix(batch)
        parts.append(part[:, 0])
        n_huge += int(huge[0])
        if stores.times is not None:
            stores.times.append(times_of(batch.column(preparation.timestamp)).view(np.int64))
        if stores.truth is not None and preparation.label is not None:
            stores.truth.append(truth_of(batch.column(preparation.label), preparation.label))
        n_read += batch.num_rows
        watch.progress(n_read, table.n_rows, "reading the series")
    return np.concatenate(parts) if parts else np.empty(0), n_huge


def _anomalies(
    column: str, found: SeriesScores, values: FloatArray, times: NDArray[np.datetime64] | None, n: int
) -> list[Anomaly]:
    best = np.argsort(-found.score, kind="stable")[:n]
    return [
        Anomaly(
            rank=rank,
            row=int(row),
            timestamp=None if times is None else iso(times[row]),
            score=float(found.score[row]),
            values={column: _number(values[row]), "expected": _number(found.expected[row])},
            contributions=(_contribution(column, found, values, int(row)),),
        )
        for rank, row in enumerate(best, start=1)
    ]


def _contribution(column: str, found: SeriesScores, values: FloatArray, row: int) -> Contribution:
    value, expected = values[row], found.expected[row]
    if np.isnan(value):
        direction = "missing"
    else:
        direction = "low" if np.isfinite(expected) and value < expected else "high"
    return Contribution(
        column=column,
        value=_number(value),
        contribution=float(found.score[row]),
        share=1.0,
        direction=direction,  # type: ignore[arg-type]  # one of the three, above
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
