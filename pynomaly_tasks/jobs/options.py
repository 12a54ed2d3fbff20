"""What a caller may ask about a job beside its request."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from pynomaly_tasks.core.trace import is_traceparent

Key = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f]+$")]
# Beyond these years an instant cannot be told in every time zone.
Instant = Annotated[
    AwareDatetime, Field(ge=datetime(1970, 1, 2, tzinfo=UTC), le=datetime(9000, 1, 1, tzinfo=UTC))
]
Tag = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f]+$")]


class JobOptions(BaseModel):
    """Options of one job. Each may be given to ``.apply_async()``, to ``submit`` and over HTTP."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    queue: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,100}$")] | None = None
    priority: Annotated[int, Field(ge=0, le=9, strict=True, description="0 to 9, higher first")] = 0
    delay_s: Annotated[float, Field(ge=0, le=365 * 86_400, strict=True)] | None = None
    run_at: Instant | None = None
    deadline_at: Instant | None = Field(
        None, description="A job that has not started by then becomes a dead letter"
    )
    time_limit_s: Annotated[float, Field(gt=0, strict=True)] | None = Field(
        None, description="Of one attempt"
    )
    idempotency_key: Key | None = None
    ordering_key: Key | None = None
    tags: Annotated[tuple[Tag, ...], Field(max_length=20)] = ()
    owner: Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f]*$")] = ""
    max_retries: Annotated[int, Field(ge=0, le=10, strict=True)] | None = None
    backoff_s: Annotated[float, Field(gt=0, le=86_400, strict=True)] | None = None
    traceparent: str | None = Field(None, description="W3C Trace Context of what asks for the job")
    replay_of: str | None = None
    parent_id: str | None = None
    root_id: str | None = None

    @field_validator("traceparent")
    @classmethod
    def _is_traceparent(cls, text: str | None) -> str | None:
        if text is not None and not is_traceparent(text):
            raise ValueError(
                "is no traceparent of W3C Trace Context, such as "
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01; leave it out to get one"
            )
        return text

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.delay_s is not None and self.run_at is not None:
            raise ValueError("delay_s and run_at both say when the job may start; give one of them")
        return self
