"""What a task is to those who submit and watch it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pynomaly_tasks.errors import InvalidMessage, UnreadableMessage
from pynomaly_tasks.messaging.codec import Codec
from pynomaly_tasks.messaging.message import Message
from pynomaly_tasks.messaging.task_records import TaskRecord, TaskState

_MAX_ERROR_CHARACTERS = 4_000


class TaskType(StrEnum):
    """The types that the platform knows by name; a handler may be registered for any other name too."""

    ANOMALY_DETECTION = "anomaly_detection"
    DATA_PROFILING = "data_profiling"
    MODEL_TRAINING = "model_training"
    DATA_PROCESSING = "data_processing"
    REPORT_GENERATION = "report_generation"
    NOTIFICATION = "notification"
    CLEANUP = "cleanup"
    EXPORT = "export"
    IMPORT = "import"
    VALIDATION = "validation"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskProgress:
    """How far a running task is: ``current`` of ``total`` steps, in its own unit of work."""

    current: float
    total: float
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskError:
    """Why the last try ended without a result."""

    type: str  #: Cancelled, ParentFailed, WorkerDied, Unreadable, or the name of what the handler raised
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as it stands."""

    id: str
    type: str
    state: TaskState
    arguments: Mapping[str, Any]
    priority: int
    after: tuple[str, ...]  #: its parents
    n_waiting_for: int  #: parents that have not ended
    attempt: int  #: starts so far
    n_failed: int  #: tries that raised; of a task that repeats, in this run
    n_lost: int  #: tries whose worker died; of a task that repeats, in this run
    n_runs: int  #: that ended, of a task that repeats
    every_s: float | None  #: between the runs of one that repeats
    created_at: datetime
    run_at: datetime  #: not started before; of one that repeats, its next run
    started_at: datetime | None  #: the last attempt
    ended_at: datetime | None
    worker: str  #: that has or had the last attempt
    progress: TaskProgress | None
    error: TaskError | None  #: of the last try; None where it succeeded, or none has ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for, as a worker reads it."""

    arguments: Mapping[str, Any]
    max_retries: int
    backoff_s: float
    backoff_max_s: float
    jitter: float
    time_limit_s: float | None


def pack(codec: Codec, task_id: str, payload: Any) -> bytes:
    """Bytes for a record, with the codec's limits, checksum and encryption. Raises InvalidMessage."""
    canonical = codec.canonical(payload)
    return codec.encode(Message(payload=payload, id=task_id), canonical)


def unpack(codec: Codec, data: bytes) -> Any:
    """What `pack` was given. Raises UnreadableMessage."""
    return codec.decode(data, queue="").payload


def pack_error(codec: Codec, task_id: str, error: TaskError) -> bytes:
    """The report of a try without a result."""
    text = error.message.encode("utf-8", "replace").decode()[:_MAX_ERROR_CHARACTERS]
    try:
        return pack(codec, task_id, {"error": {"type": error.type, "message": text}})
    except InvalidMessage:  # limits so low that no error fits
        return pack(codec, task_id, {"error": {"type": error.type[:100], "message": ""}})


def read_task(codec: Codec, record: TaskRecord) -> Task:
    """A record for those who watch. What its process cannot read (another key) is left empty."""
    try:
        arguments = unpack(codec, record.body)["arguments"]
    except UnreadableMessage:
        arguments = {}
    try:
        progress = TaskProgress(**unpack(codec, record.progress)) if record.progress else None
    except UnreadableMessage:
        progress = None
    return Task(
        arguments=arguments,
        progress=progress,
        error=_error(codec, record),
        **{
            name: getattr(record, name)
            for name in Task.__dataclass_fields__
            if name not in ("arguments", "progress", "error")
        },
    )


def _error(codec: Codec, record: TaskRecord) -> TaskError | None:
    if record.failed_parent:
        ended = "was cancelled" if record.failed_parent_state == TaskState.CANCELLED else "failed"
        if record.failed_parent_state == TaskState.PARENT_FAILED:
            ended = "never ran, because one before it failed"
        return TaskError(
            type="ParentFailed", message=f"it was to follow task {record.failed_parent}, which {ended}"
        )
    if record.worker_died:
        return TaskError(
            type="WorkerDied",
            message="each worker that ran it died with it, as often as is allowed (max_lost)",
        )
    if not record.outcome:
        return None
    try:
        report = unpack(codec, record.outcome)
    except UnreadableMessage as error:
        return TaskError(type="Unreadable", message=f"its report cannot be read here: {error}")
    return TaskError(**report["error"]) if "error" in report else None
