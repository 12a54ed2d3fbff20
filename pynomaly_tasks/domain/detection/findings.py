"""From the stored scores of a whole file to labels, the file of scores, figures and the plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pynomaly_tasks.domain.detection.detection import Plot
from pynomaly_tasks.domain.detection.evaluation import Evaluation, evaluate, in_windows, windows_found
from pynomaly_tasks.domain.detection.plot import thin
from pynomaly_tasks.domain.detection.score_store import ScoreStore
from pynomaly_tasks.domain.detection.threshold import Threshold, labelled

#: Areas under curves are taken over at most this many rows, evenly spaced.
MAX_EVALUATED = 20_000_000
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


def write_scores(
    stores: Stores, threshold: Threshold, time_name: str | None, path: Path, flags: ScoreStore
) -> int:
    """Write row, timestamp, score and label of every row as Parquet; the labels into ``flags`` too.

    Returns how many rows are anomalies. Memory does not grow with the file.
    """
    fields = [pa.field("row", pa.int64()), pa.field("score", pa.float64()), pa.field("label", pa.bool_())]
    if stores.times is not None and time_name is not None:
        fields.insert(1, pa.field("timestamp", pa.timestamp("us")))
    schema = pa.schema(fields)
    n_anomalies = row = 0
    times = stores.times.values() if stores.times is not None else None
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for score, anomaly in labelled(stores.scores, threshold):
            n = len(score)
            columns = [pa.array(np.arange(row, row + n)), pa.array(score), pa.array(anomaly)]
            if times is not None and time_name is not None:
                columns.insert(1, pa.array(np.array(times[row : row + n]).view("datetime64[us]")))
            writer.write_batch(pa.record_batch(columns, schema=schema))
            flags.append(anomaly)
            n_anomalies += int(np.count_nonzero(anomaly))
            row += n
    return n_anomalies


def evaluation_of(
    stores: Stores, flags: ScoreStore, windows: Windows | None
) -> tuple[Evaluation | None, list[str]]:
    """Compare with the label column, or else with the windows."""
    step = -(-stores.scores.n_rows // MAX_EVALUATED)
    warnings = [f"evaluated on every {step}th row"] if step > 1 else []
    score = np.array(stores.scores.values()[::step], dtype=np.float64)
    found = np.array(flags.values()[::step], dtype=bool)
    if stores.truth is not None:
        truth = np.array(stores.truth.values()[::step])
        known = truth >= 0
        if not known.any():
            return None, [*warnings, "the label column is empty: nothing to evaluate against"]
        return evaluate("column", truth[known] == 1, score[known], found[known]), warnings
    if windows and stores.times is not None:
        times = np.array(stores.times.values()[::step]).view("datetime64[us]")
        bounds = [(utc(start), utc(end)) for start, end in windows]
        plain = evaluate("windows", in_windows(times, bounds), score, found)
        n_found = windows_found(times, found, bounds)
        return (
            Evaluation(
                labels="windows",
                n_labelled=plain.n_labelled,
                n_positive=plain.n_positive,
                precision=plain.precision,
                recall=plain.recall,
                f1=plain.f1,
                auc_roc=plain.auc_roc,
                auc_pr=plain.auc_pr,
                n_windows=len(bounds),
                windows_found=n_found,
            ),
            warnings,
        )
    return None, warnings


def plot_of(
    stores: Stores,
    flags: ScoreStore,
    *,
    kind: Literal["series", "scores"],
    y_label: str,
    values: NDArray[np.float64] | None = None,
) -> tuple[Plot, list[str]]:
    """The rows to draw. ``values`` is the series where there is one."""
    score = stores.scores.values()
    anomaly = flags.values()
    chosen = thin(score, anomaly, values)  # type: ignore[arg-type]  # float64 and bool, by how they were made
    rows = chosen.row
    x: list[int] | list[str]
    if kind == "series" and stores.times is not None:
        times = np.array(stores.times.values()[rows]).view("datetime64[us]")
        order = np.argsort(times, kind="stable")
        rows = rows[order]
        x = [iso(time) or "" for time in times[order]]
    else:
        x = [int(row) for row in rows]
    picked = np.array(score[rows], dtype=np.float64)
    y = picked if values is None else values[rows]
    warnings = []
    if chosen.n_anomalies_left_out:
        warnings.append(f"the plot leaves out the {chosen.n_anomalies_left_out:,} lowest-scoring anomalies")
    return (
        Plot(
            kind=kind,
            x=x,
            y=[float(v) if np.isfinite(v) else None for v in y],
            score=[float(v) for v in picked],
            anomaly=[bool(v) for v in anomaly[rows]],
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
