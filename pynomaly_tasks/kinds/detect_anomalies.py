"""Detect anomalies in a dataset: the request, and the job's work."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from pynomaly_tasks.domain.detection.catalog import DetectorSpec
from pynomaly_tasks.domain.detection.threshold_rule import MAX_CONTAMINATION, ThresholdRule
from pynomaly_tasks.jobs.context import JobContext, Outcome
from pynomaly_tasks.kinds.dataset_checks import check_detection
from pynomaly_tasks.kinds.dataset_facts import dataset_facts
from pynomaly_tasks.kinds.services import Services

if TYPE_CHECKING:
    from pynomaly_tasks.domain.detection.detection import Detection

ColumnName = Annotated[str, Field(min_length=1, max_length=1_000)]
DEFAULT_CONTAMINATION = 0.01


class DetectionRequest(BaseModel):
    """What every kind of detection is told."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    dataset: str = Field(min_length=1, max_length=4_096, description="path or address of the data")
    columns: tuple[ColumnName, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=2_000,
        description="columns to look at; null: all that hold numbers",
    )
    timestamp_column: ColumnName | None = Field(default=None, description="null: the first column of dates")
    label_column: ColumnName | None = Field(default=None, description="known truth, to evaluate against")
    label_windows: tuple[tuple[datetime, datetime], ...] | None = Field(
        default=None, min_length=1, max_length=10_000, description="known anomalous periods, ends included"
    )
    contamination: float | None = Field(
        strict=True,
        default=None,
        gt=0.0,
        le=MAX_CONTAMINATION,
        description="short for a threshold by contamination",
    )
    threshold: ThresholdRule | None = Field(default=None, description="null: contamination 0.01")
    seed: int = Field(strict=True, default=0, ge=0, le=2**32 - 1, description="of every random choice")
    top_n: int = Field(strict=True, default=20, ge=1, le=1_000, description="anomalies to explain")

    @model_validator(mode="after")
    def _rules_between_fields(self) -> Self:
        if self.contamination is not None and self.threshold is not None:
            raise PydanticCustomError("two_thresholds", "give contamination or threshold, not both")
        if self.label_column is not None and self.label_windows is not None:
            raise PydanticCustomError("two_truths", "give label_column or label_windows, not both")
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise PydanticCustomError("repeated_columns", "columns names a column twice")
        for number, (start, end) in enumerate(self.label_windows or ()):
            if (start.tzinfo is None) != (end.tzinfo is None) or start > end:
                raise PydanticCustomError(
                    "bad_window",
                    "label_windows[{number}] must not end before it starts; give both ends a time zone, or none",
                    {"number": number},
                )
        return self

    def rule(self) -> ThresholdRule:
        """The threshold asked for."""
        share = self.contamination if self.contamination is not None else DEFAULT_CONTAMINATION
        return self.threshold or ThresholdRule(method="contamination", value=share)


class DetectAnomaliesRequest(DetectionRequest):
    """Which data, which detector, and where the line lies."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("dataset", "detector")

    detector: DetectorSpec | None = Field(
        default=None,
        description="name, or name and params; null: rolling_robust_z for a series, else isolation_forest",
    )


def check(request: DetectAnomaliesRequest, datasets: Any) -> None:
    """What the caller can find wrong. Raises InvalidInput, SourceUnavailable."""
    check_detection(request, request.detector, datasets)


def perform(context: JobContext, request: DetectAnomaliesRequest, services: Services) -> Outcome:
    """Find the anomalies; leaves scores.parquet."""
    return run_detection(context, request, request.detector, services)


def run_detection(
    context: JobContext, request: DetectionRequest, detector: DetectorSpec | None, services: Services
) -> Outcome:
    """The work of any kind of detection. Raises InvalidRequest, InvalidDataset."""
    import time

    from pynomaly_tasks.domain.detection.detection import DetectionTask
    from pynomaly_tasks.domain.detection.run import detect
    from pynomaly_tasks.domain.detection.versions import versions
    from pynomaly_tasks.kinds.told_anomalies import anomaly_events

    started = time.perf_counter()
    context.progress(0, 1, "opening the dataset")
    with services.datasets.open(request.dataset, context.checkpoint) as dataset:
        opened = time.perf_counter()
        task = DetectionTask(
            detector=detector,
            threshold=request.rule(),
            columns=request.columns,
            timestamp_column=request.timestamp_column,
            label_column=request.label_column,
            label_windows=request.label_windows,
            seed=request.seed,
            top_n=request.top_n,
        )
        found = detect(dataset, task, context.scratch, context)
        detail = {
            "dataset": dataset_facts(dataset),
            **_detail(found, request),
            "timing_s": {
                "open": opened - started,
                "fit": found.fit_s,
                "score": found.score_s,
                "total": time.perf_counter() - started,
            },
            "versions": versions(),
            "warnings": [*_choice(detector, found), *dataset.warnings, *found.warnings],
        }
    return Outcome(
        anomalies_found=found.n_anomalies,
        summary={
            "detector": found.detector.name,
            "n_scored": found.n_scored,
            "threshold": found.threshold.value,
        },
        detail=detail,
        files={"scores.parquet": found.scores_file},
        events=anomaly_events(context.job_id, request.dataset, found),
    )


def _choice(detector: DetectorSpec | None, found: Detection) -> list[str]:
    if detector is not None:
        return []
    if found.detector.entry().kind == "series":
        return [f"{found.detector.name} was chosen: dates beside one column of numbers are a time series"]
    return [f"{found.detector.name} was chosen: no detector was named"]


def _detail(found: Detection, request: DetectionRequest) -> dict[str, Any]:
    from dataclasses import asdict

    evaluation = None
    if found.evaluation is not None:
        evaluation = asdict(found.evaluation)
        if found.evaluation.labels == "column":
            del evaluation["n_windows"], evaluation["windows_found"]
    rule = found.threshold.rule
    return {
        "columns": {
            "used": list(found.used),
            "left_out": [asdict(item) for item in found.left_out],
            "filled": [
                {"column": item.column, "n_missing": item.n_missing, "with": item.with_}
                for item in found.filled
            ],
            "timestamp": found.timestamp,
            "label": found.label,
        },
        "detector": {
            "name": found.detector.name,
            "params": found.detector.params,
            "kind": found.detector.entry().kind,
        },
        "seed": found.seed,
        "threshold": {"method": rule.method, "requested": rule.value, "value": found.threshold.value},
        "n_scored": found.n_scored,
        "n_anomalies": found.n_anomalies,
        "score_quantiles": dict(found.score_quantiles),
        "anomalies": [asdict(anomaly) for anomaly in found.anomalies],
        "plot": {
            **asdict(found.plot),
            "windows": [[start.isoformat(), end.isoformat()] for start, end in request.label_windows or ()],
        },
        "evaluation": evaluation,
    }
