"""Events of what people did through the web, the command line, Celery or code."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from pynomaly_tasks.core.event import AUDIT_EVENTS
from pynomaly_tasks.core.event_data import EventData, JobId, Name
from pynomaly_tasks.core.job import JobState

Door: TypeAlias = Literal["web", "cli", "celery", "python"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who does something, as far as the platform can know."""

    name: (
        str  #: a user of the operating system, or what let somebody in: ``api key``, ``session``, ``anyone``
    )
    door: Door
    address: str | None = None  #: of a web client


SOMEBODY = Actor(name="unknown", door="python")


def user_at(door: Door) -> Actor:
    """The user of the operating system that runs this process."""
    uid = os.getuid()
    try:
        return Actor(name=pwd.getpwuid(uid).pw_name, door=door)
    except KeyError:  # as in a container that runs under a number
        return Actor(name=f"uid {uid}", door=door)


def letter_name(letter_id: int) -> str:
    """What a dead letter is called where it has to be told from a job."""
    return f"dead letter {letter_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent(EventData):
    """What each of them says of who did it."""

    topic: ClassVar[str] = AUDIT_EVENTS

    actor: Annotated[
        Name, Field(description="A user of the operating system, or: api key, session, anyone, unknown.")
    ]
    door: Annotated[Door, Field(description="How it was asked for.")]
    address: Annotated[str | None, Field(description="Of the web client.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCancelRequested(AuditEvent):
    """Somebody cancelled a job."""

    type: ClassVar[str] = "audit.job.cancel_requested"
    subject_field: ClassVar[str | None] = "job_id"

    job_id: Annotated[JobId, Field(description="The job.")]
    state: Annotated[
        JobState, Field(description="Its state then; a running job stops at its next checkpoint.")
    ]
    reason: Annotated[str, Field(description="What was said.")] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReplayed(AuditEvent):
    """Somebody ran an ended job again, as a new one."""

    type: ClassVar[str] = "audit.job.replayed"
    subject_field: ClassVar[str | None] = "job_id"

    job_id: Annotated[JobId, Field(description="The old job.")]
    new_job_id: Annotated[JobId, Field(description="The new one.")]
    edited: Annotated[tuple[str, ...], Field(description="Fields of the request that were changed.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterDiscarded(AuditEvent):
    """Somebody decided against a dead letter."""

    type: ClassVar[str] = "audit.dead_letter.discarded"
    subject_field: ClassVar[str | None] = "letter"

    letter: Annotated[Name, Field(description="`dead letter` and its number.")]
    job_id: Annotated[str | None, Field(description="Its job; null: a message that never became one.")]
    queue: Annotated[str, Field(description="Where it was.")]
    reason: Annotated[str, Field(description="Why it was a dead letter.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterReplayed(AuditEvent):
    """Somebody sent a message again that had never become a job."""

    type: ClassVar[str] = "audit.dead_letter.replayed"
    subject_field: ClassVar[str | None] = "letter"

    letter: Annotated[Name, Field(description="`dead letter` and its number.")]
    replayed_as: Annotated[str, Field(description="The job that it became, or is to become.")]
    queue: Annotated[str, Field(description="Where it was.")]
    edited: Annotated[tuple[str, ...], Field(description="Fields of the request that were changed.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetUploaded(AuditEvent):
    """Somebody uploaded a file for jobs to read."""

    type: ClassVar[str] = "audit.dataset.uploaded"
    subject_field: ClassVar[str | None] = "dataset"

    dataset: Annotated[Name, Field(description="The name under which jobs find it.")]
    size_bytes: Annotated[int, Field(ge=0, description="Its size.")]
