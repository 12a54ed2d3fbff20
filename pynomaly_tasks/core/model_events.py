"""Events for kinds of job that train models or watch for drift; no kind of the platform's own does yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from pynomaly_tasks.core.event import ANOMALY_EVENTS, JOB_EVENTS
from pynomaly_tasks.core.event_data import EventData, Name


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftedColumn:
    """How one column differs from what it was."""

    column: Annotated[str, Field(description="Its name.")]
    measure: Annotated[str, Field(description="How the difference is measured, such as psi.")]
    effect: Annotated[float, Field(description="The difference, in the measure's unit; larger is more.")]
    threshold: Annotated[float, Field(description="From this on it counts as drift.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftDetected(EventData):
    """Data differs from its reference by more than is usual."""

    type: ClassVar[str] = "drift.detected"
    topic: ClassVar[str] = ANOMALY_EVENTS
    subject_field: ClassVar[str | None] = "dataset"

    dataset: Annotated[str, Field(description="The newer data; passwords and query values masked.")]
    reference: Annotated[
        str, Field(description="What it was compared with: a dataset, a profile or a model.")
    ]
    n_columns: Annotated[int, Field(ge=0, description="Columns that were compared.")]
    n_drifted: Annotated[int, Field(ge=0, description="Columns that drifted, listed here or not.")]
    columns: Annotated[
        tuple[DriftedColumn, ...],
        Field(max_length=200, description="The drifted ones, largest effect first."),
    ]
    job_id: Annotated[str | None, Field(description="The job that found it, where one did.")] = None
    result: Annotated[str | None, Field(description="Path of the whole result in the web API.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTrained(EventData):
    """A model was trained and can be used."""

    type: ClassVar[str] = "model.trained"
    topic: ClassVar[str] = JOB_EVENTS
    subject_field: ClassVar[str | None] = "model"

    model: Annotated[Name, Field(description="The model's name.")]
    model_version: Annotated[str, Field(description="Which training of it.")]
    algorithm: Annotated[str, Field(description="Such as isolation_forest.")]
    dataset: Annotated[str, Field(description="What it learnt from; passwords and query values masked.")]
    n_rows: Annotated[int, Field(ge=0, description="Rows that it learnt from.")]
    metrics: Annotated[Mapping[str, float], Field(description="Name to value, as the evaluation has them.")]
    files: Annotated[Mapping[str, str], Field(description="Name to path in the web API.")]
    job_id: Annotated[str | None, Field(description="The job that trained it, where one did.")] = None
