"""Events of the platform itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from pynomaly_tasks.core.event import SYSTEM_EVENTS
from pynomaly_tasks.core.event_data import EventData


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemHealth(EventData):
    """How much work there is."""

    type: ClassVar[str] = "system.health"
    topic: ClassVar[str] = SYSTEM_EVENTS

    jobs: Annotated[
        Mapping[str, Mapping[str, int]],
        Field(description="Jobs by queue and state, as the store counts them."),
    ]
    messages_ready: Annotated[
        Mapping[str, int], Field(description="Messages that wait in the broker, by queue.")
    ]


HEALTH_KEY = "health"  #: these events are in order among themselves
