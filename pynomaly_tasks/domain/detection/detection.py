"""What is asked of a detection, and what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from pynomaly_tasks.domain.detection.catalog import DetectorSpec
from pynomaly_tasks.domain.detection.column_rules import LeftOut
from pynomaly_tasks.domain.detection.evaluation import Evaluation
from pynomaly_tasks.domain.detection.explanation import Contribution
from pynomaly_tasks.domain.detection.threshold import Threshold
from pynomaly_tasks.domain.detection.threshold_rule import ThresholdRule


class Watcher(Protocol):
    """Whoever follows the work and may stop it, by raising."""

    def progress(self, current: int, total: int, status: str) -> None:
        """So many of so many rows are done."""

    def checkpoint(self) -> None:
        """Called between steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionTask:
    """One request, with names not checked against the file yet."""

    detector: DetectorSpec | None  #: None: chosen from what the file holds
    threshold: ThresholdRule
    columns: Sequence[str] | None = None
    timestamp_column: str | None = None
    label_column: str | None = None
    label_windows: Sequence[tuple[datetime, datetime]] | None = None
    seed: int = 0
    top_n: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """A column whose missing values were stood in for."""

    column: str
    n_missing: int
    with_: str  #: what stood in


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """One labelled row, explained."""

    rank: int  #: from 1, the highest score
    row: int  #: position in the file, from 0
    timestamp: str | None
    score: float
    values: Mapping[str, Any]
    contributions: Sequence[Contribution]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """At most 2,000 points."""

    kind: Literal["series", "scores"]
    x: Sequence[Any]  #: ISO timestamps or row numbers
    y: Sequence[float | None]  #: the series, or the scores again
    score: Sequence[float]
    anomaly: Sequence[bool]
    y_label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """What was found."""

    detector: DetectorSpec
    seed: int
    used: Sequence[str]
    left_out: Sequence[LeftOut]
    filled: Sequence[Filled]
    timestamp: str | None
    label: str | None
    threshold: Threshold
    n_scored: int
    n_anomalies: int
    score_quantiles: Mapping[str, float]
    anomalies: Sequence[Anomaly]
    plot: Plot
    evaluation: Evaluation | None
    fit_s: float
    score_s: float
    warnings: Sequence[str]
    scores_file: Path
