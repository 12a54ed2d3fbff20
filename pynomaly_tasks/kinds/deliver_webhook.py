"""deliver_webhook: post one event to one receiver that the settings name, signed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import orjson
from pydantic import BaseModel, ConfigDict, Field

from pynomaly_tasks.errors import FieldProblem, InvalidRequest
from pynomaly_tasks.jobs.context import JobContext, Outcome
from pynomaly_tasks.kinds.services import Services

#: A receiver that sends its answer drop by drop is given up; its thread serves others.
TIME_LIMIT_S = 120.0


class WebhookEvent(BaseModel):
    """A CloudEvent in JSON; further attributes are posted as they are."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, defer_build=True)

    id: Annotated[
        str, Field(min_length=1, max_length=200, description="The receiver knows repetitions by it.")
    ]
    type: Annotated[str, Field(min_length=1, max_length=100)]
    data: Annotated[Mapping[str, Any] | None, Field(description="What the event says.")] = None


class DeliverWebhookRequest(BaseModel):
    """Which event goes to which receiver. Its address and secret are in the settings only."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)
    POSITIONAL: ClassVar[tuple[str, ...]] = ("endpoint", "event")

    endpoint: Annotated[
        str,
        Field(min_length=1, max_length=100, description="A name from the setting webhooks.endpoints."),
    ]
    event: WebhookEvent


def perform(context: JobContext, request: DeliverWebhookRequest, services: Services) -> Outcome:
    """Post it. Raises InvalidRequest for a receiver that the settings do not name, and what posting raises."""
    receiver = services.webhooks.find(request.endpoint)
    if receiver is None:
        known = ", ".join(services.webhooks.names()) or "none"
        raise InvalidRequest(
            FieldProblem(
                field="endpoint",
                message=f"no endpoint named {request.endpoint}; known: {known}. "
                "Add it to the setting webhooks.endpoints",
            )
        )
    body = orjson.dumps(request.event.model_dump(mode="json"))
    context.progress(0, 1, f"posting to {request.endpoint}")
    posted = receiver.post(request.event.id, body)
    context.progress(1, 1, "delivered")
    summary = {"endpoint": request.endpoint, "event_id": request.event.id, "http_status": posted.status}
    return Outcome(
        summary=summary,
        detail={**summary, "event_type": request.event.type, "duration_s": round(posted.duration_s, 6)},
    )
