"""The types of events that this process knows, with their schemas."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import orjson
from pydantic import TypeAdapter, ValidationError

from pynomaly_tasks.core.audit_events import (
    DatasetUploaded,
    DeadLetterDiscarded,
    DeadLetterReplayed,
    JobCancelRequested,
    JobReplayed,
)
from pynomaly_tasks.core.event import Event
from pynomaly_tasks.core.event_data import EventData
from pynomaly_tasks.core.job_events import (
    JobCancelled,
    JobCompleted,
    JobDeadLettered,
    JobFailed,
    JobQueued,
    JobRetrying,
    JobStarted,
    JobSubmitted,
)
from pynomaly_tasks.core.model_events import DriftDetected, ModelTrained
from pynomaly_tasks.core.system_events import SystemHealth
from pynomaly_tasks.core.work_events import (
    AnomalyDetected,
    DatasetProfiled,
    NotificationFailed,
    NotificationSent,
    ReportReady,
)
from pynomaly_tasks.errors import FieldProblem, InvalidInput

#: Ours, in the order in which they are shown.
TYPES: tuple[type[EventData], ...] = (
    JobSubmitted,
    JobQueued,
    JobStarted,
    JobRetrying,
    JobCompleted,
    JobFailed,
    JobCancelled,
    JobDeadLettered,
    AnomalyDetected,
    DatasetProfiled,
    DriftDetected,
    ModelTrained,
    ReportReady,
    NotificationSent,
    NotificationFailed,
    SystemHealth,
    JobCancelRequested,
    JobReplayed,
    DeadLetterDiscarded,
    DeadLetterReplayed,
    DatasetUploaded,
)


class EventType:
    """One version of one type."""

    def __init__(self, model: type[EventData]) -> None:
        self.model = model
        self.type = model.type
        self.version = model.version
        self.topic = model.topic
        self.subject_field = model.subject_field
        self.schema_id = schema_id(model.type, model.version)

    @cached_property
    def adapter(self) -> TypeAdapter[EventData]:
        """Reads the data. Made when it is first needed, since making it takes a millisecond."""
        return TypeAdapter(self.model)

    @property
    def summary(self) -> str:
        """What an event of this type says, in one line."""
        return (self.model.__doc__ or "").strip().partition("\n")[0]


def schema_id(type: str, version: int) -> str:  # noqa: A002 (the name in CloudEvents)
    """The ``dataschema`` of an event."""
    return f"urn:pynomaly:event:{type}:{version}"


class Catalog:
    """Types by name and version."""

    def __init__(self, models: tuple[type[EventData], ...] = TYPES) -> None:
        self._by_schema: dict[str, EventType] = {}
        self._newest: dict[str, EventType] = {}
        for model in models:
            self.add(model)

    def add(self, model: type[EventData]) -> None:
        """Know one more. Adding another class for the same type and version is refused with ValueError."""
        event_type = EventType(model)
        known = self._by_schema.get(event_type.schema_id)
        if known is not None and known.model is not model:
            raise ValueError(
                f"{model.type} version {model.version} is {known.model.__qualname__}; give {model.__qualname__} "
                "another type or version"
            )
        self._by_schema[event_type.schema_id] = event_type
        newest = self._newest.get(model.type)
        if newest is None or newest.version < model.version:
            self._newest[model.type] = event_type

    def find(self, type: str) -> EventType | None:  # noqa: A002 (the name in CloudEvents)
        """The newest version of the type, or None."""
        return self._newest.get(type)

    def find_schema(self, dataschema: str) -> EventType | None:
        """The type and version that a ``dataschema`` names, or None."""
        return self._by_schema.get(dataschema)

    def __iter__(self) -> Iterator[EventType]:
        """The newest version of each, in the order in which they were added."""
        return iter(self._newest.values())

    def __len__(self) -> int:
        return len(self._newest)


#: This process's: ours, and what `add_event_type` added.
CATALOG = Catalog()


def parse(event: Event, catalog: Catalog = CATALOG) -> EventData:
    """An event's data as the class of its type. Raises KeyError for a type that is not in the catalogue."""
    event_type = catalog.find_schema(schema_id(event.type, event.version))
    if event_type is None:
        raise KeyError(event.type)
    return event_type.adapter.validate_python(event.data)


def require_valid(data: EventData, catalog: Catalog = CATALOG) -> None:
    """Raise InvalidInput, which names the field, for data that no consumer could read."""
    event_type = catalog.find_schema(schema_id(data.type, data.version))
    if event_type is None or event_type.model is not type(data):
        raise InvalidInput.of(
            "events",
            f"{type(data).__name__} is no type of the catalogue: add it with pynomaly_tasks.add_event_type, in every "
            "process that publishes or reads it",
        )
    try:
        event_type.adapter.validate_json(orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY), strict=True)
    except TypeError as error:
        raise InvalidInput.of("events", f"{data.type} cannot be written as JSON: {error}") from error
    except ValidationError as error:
        raise InvalidInput(
            *(
                FieldProblem(
                    field=".".join(("events", data.type, *map(str, each["loc"]))), message=each["msg"]
                )
                for each in error.errors(include_url=False, include_input=False, include_context=False)
            )
        ) from error
