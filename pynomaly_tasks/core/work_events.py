"""Events of what jobs found and made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from pynomaly_tasks.core.event import ANOMALY_EVENTS, JOB_EVENTS
from pynomaly_tasks.core.event_data import EventData, JobId

#: Anomalies that one event lists; a detection that explains more of them has several events.
MAX_LISTED = 100
#: Events of one detection. All anomalies are in the job's result, however many.
MAX_BATCHES = 10
MAX_CAUSES = 5  #: columns named for one anomaly
MAX_COLUMNS = 200  #: columns listed of a profile
MAX_TEXT = 100  #: characters of a column's name or value; a longer one is cut


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkEvent(EventData):
    """What each event of a job's work says of the job."""

    topic: ClassVar[str] = JOB_EVENTS
    subject_field: ClassVar[str | None] = "job_id"

    job_id: Annotated[JobId, Field(description="The job that found or made it.")]
    result: Annotated[str, Field(description="Path of the whole result in the web API.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A column that an anomaly is due to."""

    column: Annotated[str, Field(description="Its name.")]
    value: Annotated[Any, Field(description="What the row holds there.")]
    share: Annotated[float | None, Field(description="Its part in the score, 0 to 1.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundAnomaly:
    """One anomaly."""

    rank: Annotated[int, Field(ge=1, description="1 has the highest score.")]
    row: Annotated[int, Field(ge=0, description="Position in the data, from 0.")]
    timestamp: Annotated[str | None, Field(description="The row's time, ISO 8601, where it has one.")]
    score: Annotated[float | None, Field(description="Higher is more anomalous; null: beyond all numbers.")]
    causes: Annotated[tuple[Cause, ...], Field(max_length=MAX_CAUSES, description="Strongest first.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnomalyDetected(WorkEvent):
    """A detection found anomalies; where it explains many, they come in several events."""

    type: ClassVar[str] = "anomaly.detected"
    topic: ClassVar[str] = ANOMALY_EVENTS

    dataset: Annotated[str, Field(description="Where they are; passwords and query values masked.")]
    detector: Annotated[str, Field(description="What found them.")]
    threshold: Annotated[
        float | None, Field(description="Rows that score higher are anomalies; null: beyond all numbers.")
    ]
    n_scored: Annotated[int, Field(ge=0, description="Rows that were looked at.")]
    n_anomalies: Annotated[int, Field(ge=0, description="Anomalies among them, listed here or not.")]
    batch: Annotated[int, Field(ge=1, description="Which of the detection's events this is, from 1.")]
    n_batches: Annotated[int, Field(ge=1, le=MAX_BATCHES, description="How many there are.")]
    anomalies: Annotated[
        tuple[FoundAnomaly, ...],
        Field(max_length=MAX_LISTED, description="Those that were explained, highest score first."),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledColumn:
    """One column, in short."""

    name: Annotated[str, Field(description="Its name.")]
    type: Annotated[str, Field(description="Type in the data, such as DOUBLE.")]
    kind: Annotated[str, Field(description="number, time, text or other.")]
    n_missing: Annotated[int, Field(ge=0, description="Rows without a value.")]
    n_distinct: Annotated[int | None, Field(description="Different values, perhaps estimated.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetProfiled(WorkEvent):
    """A dataset was profiled."""

    type: ClassVar[str] = "dataset.profiled"

    dataset: Annotated[str, Field(description="Which; passwords and query values masked.")]
    format: Annotated[str, Field(description="csv, parquet, jsonl ...")]
    size_bytes: Annotated[int | None, Field(description="Size of the file, where known.")]
    n_rows: Annotated[int, Field(ge=0, description="Its rows.")]
    n_columns: Annotated[int, Field(ge=0, description="Columns that were profiled.")]
    n_duplicate_rows: Annotated[
        int | None, Field(description="Rows that repeat an earlier one; null: not counted.")
    ]
    columns: Annotated[
        tuple[ProfiledColumn, ...],
        Field(max_length=MAX_COLUMNS, description="The first of them; all are in the result."),
    ]
    n_warnings: Annotated[int, Field(ge=0, description="Warnings in the result.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportReady(WorkEvent):
    """A report was written."""

    type: ClassVar[str] = "report.ready"

    title: Annotated[str, Field(description="Its title.")]
    source_job_ids: Annotated[tuple[str, ...], Field(description="The jobs that it reports on.")]
    n_anomalies: Annotated[
        int | None, Field(description="Anomalies in those; null: none of them looked for any.")
    ]
    files: Annotated[Mapping[str, str], Field(description="Name to path in the web API.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationEvent(EventData):
    """What an event of a notification says."""

    topic: ClassVar[str] = JOB_EVENTS
    subject_field: ClassVar[str | None] = "job_id"

    job_id: Annotated[JobId, Field(description="The job that sends it.")]
    dedup_key: Annotated[str, Field(description="What was sent under it is not sent there again.")]
    subject: Annotated[str, Field(description="Its first line.")]
    source_job_ids: Annotated[tuple[str, ...], Field(description="The jobs that it tells of.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationSent(NotificationEvent):
    """A notification was delivered."""

    type: ClassVar[str] = "notification.sent"

    channels: Annotated[tuple[str, ...], Field(min_length=1, description="Where to, by this attempt.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationFailed(NotificationEvent):
    """A notification could not be delivered; its job may try again."""

    type: ClassVar[str] = "notification.failed"

    errors: Annotated[Mapping[str, str], Field(min_length=1, description="Channel to what went wrong there.")]
    attempt: Annotated[int, Field(ge=1, description="The job's attempt that failed.")]


def result_path(job_id: str) -> str:
    """Where the web API has the job's result."""
    return f"/api/v1/jobs/{job_id}/result"


def file_path(job_id: str, name: str) -> str:
    """Where the web API has a file that the job left."""
    return f"/api/v1/jobs/{job_id}/files/{name}"


def short(text: str) -> str:
    """At most `MAX_TEXT` characters of it."""
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
