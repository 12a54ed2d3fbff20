"""How a request names earlier jobs: by id, or by the summary that a Celery chain or chord hands on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field, StringConstraints

MAX_JOBS = 20  #: in one request; a report of more is no longer read by anybody
JobId: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=255, pattern=r"^[!-~]+$", strict=True)
]


def _job_ids(value: Any) -> Any:
    """One id, one summary, or a list of either, as a list of ids without repeats, in order."""
    if value is None:
        return ()
    if isinstance(value, list | tuple):
        return tuple(dict.fromkeys(_job_id(one) for one in value)) if value else value
    return (_job_id(value),)


def _job_id(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value.get("job_id")
        if value is None:
            raise ValueError("a summary without job_id names no job; pass a job id, or a job's summary")
    if not isinstance(value, str):
        raise ValueError(
            f"expected a job id, a job's summary, or a list of those, not {type(value).__name__}"
        )
    return value


#: ``"id"``, ``{"job_id": "id", ...}`` or a list of those; always a tuple of ids afterwards.
JobReferences: TypeAlias = Annotated[tuple[JobId, ...], Field(max_length=MAX_JOBS), BeforeValidator(_job_ids)]
