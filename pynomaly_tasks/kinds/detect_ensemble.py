"""Detect anomalies by several detectors together: the request, and the job's work."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from pynomaly_tasks.domain.detection.catalog import DetectorSpec, check_members
from pynomaly_tasks.jobs.context import JobContext, Outcome
from pynomaly_tasks.kinds.dataset_checks import check_detection
from pynomaly_tasks.kinds.detect_anomalies import DetectionRequest, run_detection
from pynomaly_tasks.kinds.services import Services


class DetectEnsembleRequest(DetectionRequest):
    """Which data, which detectors, and where the line lies."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("dataset", "detectors")

    detectors: tuple[DetectorSpec, ...] = Field(
        default=("inne", "isolation_forest", "knn"),  # names; validated into specs
        validate_default=True,
        min_length=2,
        max_length=8,
        description="detectors for tables, by name, or name and params; a global and a local one together",
    )
    combine: Literal["mean", "max"] = Field(default="mean", description="of the detectors' ranks")

    @field_validator("detectors")
    @classmethod
    def _for_tables(cls, detectors: tuple[DetectorSpec, ...]) -> tuple[DetectorSpec, ...]:
        return check_members(detectors)

    def spec(self) -> DetectorSpec:
        """The ensemble as one detector."""
        members = [member.model_dump(mode="json") for member in self.detectors]
        return DetectorSpec(name="ensemble", params={"members": members, "combine": self.combine})


def check(request: DetectEnsembleRequest, datasets: Any) -> None:
    """What the caller can find wrong. Raises InvalidInput, SourceUnavailable."""
    check_detection(request, request.spec(), datasets)


def perform(context: JobContext, request: DetectEnsembleRequest, services: Services) -> Outcome:
    """Find the rows that the detectors together rank highest; leaves scores.parquet."""
    return run_detection(context, request, request.spec(), services)
