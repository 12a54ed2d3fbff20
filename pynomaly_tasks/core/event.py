"""Domain events: facts about the past, told to other systems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

JOB_EVENTS = "job_events"
ANOMALY_EVENTS = "anomaly_events"
SYSTEM_EVENTS = "system_events"
AUDIT_EVENTS = "audit_events"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One fact, in the envelope that every broker carries."""

    id: str  #: the same however often the event is sent; with ``source`` unique anywhere
    type: str  #: such as ``job.completed``
    version: int  #: of the data's schema
    topic: str
    key: str  #: events of one key stay in order
    occurred_at: datetime  #: UTC
    data: Mapping[str, Any]  #: JSON, as the type's schema says
    traceparent: str | None = None  #: W3C Trace Context of what caused it
    source: str = ""  #: the installation that says so; set when it is published


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """An event that waits to be published."""

    number: int  #: rises in the order of one key's events
    event: Event
    n_attempts: int  #: tries to publish it that failed


class EventProblem(StrEnum):
    """Why a message is no event of the catalogue."""

    NULL_VALUE = "null_value"
    TOO_LARGE = "too_large"
    NOT_UTF8 = "not_utf8"  #: a header or the key
    NOT_A_CLOUDEVENT = "not_a_cloudevent"  #: an attribute is missing, doubled, or cannot be
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_VERSION = "unknown_version"  #: no ``dataschema`` of ours, or one that is no longer read
    NEWER_VERSION = "newer_version"  #: of a type that is known: update this process, then replay
    BAD_TIME = "bad_time"
    NOT_JSON = "not_json"
    BAD_DATA = "bad_data"  #: JSON, but not as the type's schema says
