"""send_notification: tell people what a job found, on one or more channels, each at most once."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from pynomaly_tasks.core.event_data import EventData
from pynomaly_tasks.core.job import JobResult
from pynomaly_tasks.core.work_events import NotificationFailed, NotificationSent
from pynomaly_tasks.errors import DeliveryFailed, FieldProblem, InvalidRequest, NotFound, Unavailable
from pynomaly_tasks.jobs.context import JobContext, Outcome
from pynomaly_tasks.kinds.job_reference import JobReferences
from pynomaly_tasks.kinds.services import Results, Sender, Services

MAX_CHANNELS = 20
MAX_KEY = 200  #: characters
ChannelName: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$", strict=True)
]


def _names(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list | tuple):
        return tuple(dict.fromkeys(value)) if all(isinstance(one, str) for one in value) else value
    return value


class SendNotificationRequest(BaseModel):
    """What to say, where, and about which jobs."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)
    POSITIONAL: ClassVar[tuple[str, ...]] = ("job",)

    job: JobReferences = Field((), description="A job id, a job's summary, or a list of those.")
    channels: Annotated[tuple[ChannelName, ...], BeforeValidator(_names)] = Field(
        ("log",),
        min_length=1,
        max_length=MAX_CHANNELS,
        description="Names from the setting notifications.channels, and log. May be given as `channel`.",
    )
    subject: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="One line. Unset: written from the job's result.",
    )
    body: str | None = Field(
        None, min_length=1, max_length=20_000, description="Unset: written from the job's result."
    )
    dedup_key: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_KEY,
        description="What was delivered under this key on a channel is not sent there again. "
        "Unset: the jobs it is about, or this job.",
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_channel(cls, data: Any) -> Any:
        if isinstance(data, dict) and "channel" in data:
            if "channels" in data:
                raise ValueError("name the channels in `channel` or in `channels`, not in both")
            data = {**data, "channels": data["channel"]}
            del data["channel"]
        return data

    @model_validator(mode="after")
    def _has_something_to_say(self) -> SendNotificationRequest:
        if not self.job and self.body is None:
            raise ValueError("give `job`, or a `body` to send without one")
        return self


def perform(context: JobContext, request: SendNotificationRequest, services: Services) -> Outcome:
    """Deliver on every channel that has not had this notification yet.

    Raises InvalidRequest for a channel that the settings do not name, before anything is sent, and
    DeliveryFailed (retryable) when a channel failed, after all were tried.
    """
    senders = _senders(request, services)
    subject, body = _message(request, services.results)
    dedup_key = request.dedup_key or _default_key(request.job) or context.job_id
    sent: list[str] = []
    repeated: list[str] = []
    failed: dict[str, str] = {}
    for number, (name, sender) in enumerate(senders.items()):
        context.progress(number, len(senders), f"sending to {name}")
        try:
            is_new = services.deliveries.begin(dedup_key, name, context.job_id)
        except DeliveryFailed as error:
            failed[name] = str(error)
            continue
        if not is_new:
            repeated.append(name)
            continue
        try:
            sender.send(subject, body)
        except Unavailable as error:
            failed[name] = str(error)
            services.deliveries.finish(dedup_key, name, str(error))
        else:
            sent.append(name)
            services.deliveries.finish(dedup_key, name, None)
    about: dict[str, Any] = {
        "job_id": context.job_id,
        "dedup_key": dedup_key,
        "subject": subject,
        "source_job_ids": request.job,
    }
    events: list[EventData] = [NotificationSent(**about, channels=tuple(sent))] if sent else []
    if failed:
        refused = DeliveryFailed(_failure(failed, sent, repeated))
        refused.events = [*events, NotificationFailed(**about, errors=failed, attempt=context.attempt)]
        raise refused
    context.progress(len(senders), len(senders), "delivered")
    summary = {"delivered": sent, "already_delivered": repeated, "source_job_id": _only(request.job)}
    return Outcome(
        summary=summary,
        detail={
            **summary,
            "source_job_ids": list(request.job),
            "dedup_key": dedup_key,
            "subject": subject,
            "body": body,
        },
        events=events,
    )


def _default_key(job_ids: Sequence[str]) -> str:
    """The ids, or their hash where they are longer than a key may be."""
    joined = "+".join(job_ids)
    return joined if len(joined) <= MAX_KEY else sha256(joined.encode()).hexdigest()


def _senders(request: SendNotificationRequest, services: Services) -> dict[str, Sender]:
    found = {name: services.channels.find(name) for name in request.channels}
    unknown = [name for name, sender in found.items() if sender is None]
    if unknown:
        known = ", ".join(services.channels.names())
        raise InvalidRequest(
            FieldProblem(
                field="channels",
                message=f"no channel named {', '.join(unknown)}; known: {known}. "
                "Add it to the setting notifications.channels",
            )
        )
    return {name: sender for name, sender in found.items() if sender is not None}


def _message(request: SendNotificationRequest, results: Results) -> tuple[str, str]:
    if request.subject is not None and request.body is not None:
        return request.subject, request.body
    from pynomaly_tasks.domain.notifications.compose import compose

    composed = compose([(one.job_id, one.summary, one.detail) for one in _results(request.job, results)])
    return request.subject or composed.subject, request.body or composed.body


def _results(job_ids: Sequence[str], results: Results) -> list[JobResult]:
    """The jobs' results; a report stands for the jobs that it reports on."""
    found: dict[str, JobResult] = {}
    for job_id in job_ids:
        result = _result(job_id, results)
        is_report = "report" in result.summary
        sources = result.detail.get("source_job_ids", ()) if is_report else ()
        for one in [_result(source, results) for source in sources] or [result]:
            found[one.job_id] = one
    return list(found.values())


def _result(job_id: str, results: Results) -> JobResult:
    try:
        return results.get_result(job_id)
    except NotFound:
        raise NotFound(
            f"job: {job_id} has no result; it has not succeeded, or its result was cleaned up. "
            "Chain the notification after the job, or give subject and body"
        ) from None


def _failure(failed: dict[str, str], sent: Sequence[str], repeated: Sequence[str]) -> str:
    told = "; ".join(failed.values())
    done = [*sent, *repeated]
    return f"{told} (delivered, not sent again: {', '.join(done)})" if done else told


def _only(job_ids: Sequence[str]) -> str | None:
    return job_ids[0] if len(job_ids) == 1 else None
