"""What the data of every type of events has in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeAlias

from pydantic import Field

#: Text that names a thing in a row of every database: one line, and not long.
Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
JobId: TypeAlias = Name


@dataclass(frozen=True, slots=True, kw_only=True)
class EventData:
    """The data of one event: a frozen dataclass a type, whose fields are JSON by name.

    Its JSON Schema is made from the fields, so each says in `Annotated` what it means. What other
    systems read may only grow: see ``docs/events.md``.
    """

    type: ClassVar[str]  #: such as ``job.completed``
    version: ClassVar[int] = 1  #: rises when older readers could no longer read the data
    topic: ClassVar[str]  #: where events of the type go
    subject_field: ClassVar[str | None] = None  #: the field that names what it is about; None: the key does
