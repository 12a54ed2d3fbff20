"""From the stored scores of a whole file to labels, the file of scores, figures and the plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pynomaly_tasks.domain.detection.detection import Plot
from pynomaly_tasks.domain.detection.evaluation import Evaluation, evaluate, in_windows, windows_found
from pynomaly_tasks.domain.detection.plot import MAX_ANOMALIES, MAX_POINTS, thin
from pynomaly_tasks.domain.detection.score_store import ScoreStore
from pynomaly_tasks.domain.detection.threshold import Threshold, labelled

#: Areas under curves are taken over at most this many rows, evenly spaced.
MAX_EVALUATED = 4_000_000
QUANTILES = (0.5, 0.9, 0.99, 1.0)

Windows = Sequence[tuple[datetime, datetime]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """What was kept of every row while the file was scored."""

    scores: ScoreStore
    times: ScoreStore | None  #: microseconds since 1970; NaT as its integer
    truth: ScoreStore | None  #: 1 anomaly, 0 usual, -1 not known


def score_quantiles(scores: ScoreStore) -> Mapping[str, float]:
    """Scores that so large a share of the rows does not exceed."""
    ranks = [max(0, int(np.ceil(q * scores.n_rows)) - 1) for q in QUANTILES]
    return {str(q): value for q, value in zip(QUANTILES, scores.ascending(ranks), strict=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flagged:
    """Which rows are anomalies."""

    store: ScoreStore  #: a boolean for every row
    n_anomalies: int
    highest: NDArray[np.int64]  #: rows of the highest-scoring anomalies, as many as a plot always keeps


def write_scores(
    stores: Stores, threshold: Threshold, time_name: str | None, path: Path, store: ScoreStore
) -> Flagged:
    """Write row, timestamp, score and label of every row as Parquet; the labels into ``store`` too.

    Memory does not grow with the file.
    """
    fields = [pa.field("row", pa.int64()), pa.field("score", pa.float64()), pa.field("label", pa.bool_())]
    if stores.times is not None and time_name is not None:
        fields.insert(1, pa.field("timestamp", pa.timestamp("us")))
    schema = pa.schema(fields)
    n_anomalies = row = 0
    highest, their_scores = np.empty(0, dtype=np.int64), np.empty(0)
    # A dictionary of scores, nearly all different, is built in vain: without, writing takes a sixth.
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        for score, anomaly in labelled(stores.scores, threshold):
            n = len(score)
            columns = [pa.array(np.arange(row, row + n)), pa.array(score), pa.array(anomaly)]
            if stores.times is not None and time_name is not None:
                columns.insert(1, pa.array(stores.times.read(row, row + n).view("datetime64[us]")))
            writer.write_batch(pa.record_batch(columns, schema=schema))
            store.append(anomaly)
            found = np.flatnonzero(anomaly)
            n_anomalies += len(found)
            highest = np.concatenate((highest, row + found))
            their_scores = np.concatenate((their_scores, score[found]))
            kept = np.argsort(-their_scores, kind="stable")[:MAX_ANOMALIES]
            highest, their_scores = highest[kept], their_scores[kept]
            row += n
    return Flagged(store=store, n_anomalies=n_anomalies, highest=highest)


def evaluation_of(
    stores: Stores, flagged: Flagged, windows: Windows | None
) -> tuple[Evaluation | None, list[str]]:
    """Compare with the label column, or else with the windows."""
    if stores.truth is None and (not windows or stores.times is None):
        return None, []
    step = -(-stores.scores.n_rows // MAX_EVALUATED)
    warnings = [f"evaluated on one row in {step}, evenly spaced"] if step > 1 else []
    score = stores.scores.every(step).astype(np.float64)
    found = flagged.store.every(step).astype(bool)
    if stores.truth is not None:
        truth = stores.truth.every(step).astype(np.int8)
        known = truth >= 0
        if not known.any():
            return None, [*warnings, "the label column is empty: nothing to evaluate against"]
        return evaluate("column", truth[known] == 1, score[known], found[known]), warnings
    assert stores.times is not None, "windows were refused without times"
    times = stores.times.every(step).view("datetime64[us]")
    bounds = [(utc(start), utc(end)) for start, end in windows or ()]
    plain = evaluate("windows", in_windows(times, bounds), score, found)
    n_found = windows_found(times, found, bounds)
    return replace(plain, n_windows=len(bounds), windows_found=n_found), warnings


def plot_of(
    stores: Stores,
    flagged: Flagged,
    *,
    kind: Literal["series", "scores"],
    y_label: str,
    values: NDArray[np.float64] | None = None,
) -> tuple[Plot, list[str]]:
    """The rows to draw. ``values`` is the series where there is one."""
    rows = thin(stores.scores, flagged.highest, values)
    x: list[int] | list[str]
    if kind == "series" and stores.times is not None:
        times = stores.times.at(rows).view("datetime64[us]")
        order = np.argsort(times, kind="stable")
        rows = rows[order]
        x = [iso(time) or "" for time in times[order]]
    else:
        x = [int(row) for row in rows]
    picked = stores.scores.at(rows).astype(np.float64)
    y = picked if values is None else values[rows]
    warnings = []
    if len(flagged.highest) < flagged.n_anomalies and stores.scores.n_rows > MAX_POINTS:
        n_left_out = flagged.n_anomalies - len(flagged.highest)
        warnings.append(f"the plot may leave out the {n_left_out:,} lowest-scoring anomalies")
    return (
        Plot(
            kind=kind,
            x=x,
            y=[float(v) if np.isfinite(v) else None for v in y],
            score=[float(v) for v in picked],
            anomaly=[bool(v) for v in flagged.store.at(rows)],
            y_label=y_label,
        ),
        warnings,
    )


def utc(moment: datetime) -> np.datetime64:
    """A moment as UTC microseconds; without a zone it is taken as the file's own time."""
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return np.datetime64(moment, "us")


def iso(time: np.datetime64) -> str | None:
    """ISO 8601 without a zone, whole seconds where they are; None for NaT."""
    if np.isnat(time):
        return None
    moment: datetime = time.astype("datetime64[us]").item()
    return moment.isoformat()
