"""Jobs over JSON: submit, look, cancel, run again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response

from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.jobs.options import Key, Tag
from pynomaly_tasks.web.actor import ActorDep, TraceparentDep
from pynomaly_tasks.web.representations import (
    CancelJob,
    DeadLetterList,
    DeadLetterView,
    JobList,
    JobView,
    RetryJob,
    SubmitJob,
    job_path,
)
from pynomaly_tasks.web.requests import JsonRoute, PlatformDep

router = APIRouter(prefix="/api/v1", tags=["jobs"], route_class=JsonRoute)

JobId = Annotated[str, Path(min_length=1, max_length=255, pattern=r"^[!-~]+$")]
Seq = Annotated[int | None, Query(ge=1, lt=2**63)]
_LARGEST_PAGE = 200


@router.post("/jobs", status_code=202)
def submit_job(
    body: SubmitJob,
    platform: PlatformDep,
    response: Response,
    traceparent: TraceparentDep,
    idempotency_key: Annotated[
        Key | None, Header(description="The same key again returns the job that exists.")
    ] = None,
) -> JobView:
    """Store a job and queue it. Once this has answered, the job will end, whatever crashes."""
    options = body.model_dump(exclude={"kind", "request"})
    options |= {"idempotency_key": idempotency_key, "owner": "web", "traceparent": traceparent}
    job = platform.submit(body.kind, body.request, **options)
    response.headers["Location"] = job_path(job.id)
    return JobView.of(job)


@router.get("/jobs")
def list_jobs(
    platform: PlatformDep,
    state: Annotated[list[JobState] | None, Query()] = None,
    kind: Annotated[Tag | None, Query()] = None,
    tag: Annotated[Tag | None, Query()] = None,
    before: Seq = None,
    limit: Annotated[int, Query(ge=1, le=_LARGEST_PAGE)] = 50,
) -> JobList:
    """Jobs, newest first."""
    jobs = platform.store.list_jobs(states=state, kind=kind, tag=tag, before_seq=before, limit=limit)
    next_before = jobs[-1].seq if len(jobs) == limit else None
    return JobList(jobs=[JobView.of(job) for job in jobs], next_before=next_before)


@router.get("/jobs/{job_id}")
def get_job(job_id: JobId, platform: PlatformDep) -> JobView:
    """One job with all its attempts."""
    return JobView.of(platform.store.get_job(job_id), platform.store.list_attempts(job_id))


@router.post("/jobs/{job_id}/cancel", status_code=202)
def cancel_job(
    job_id: JobId, platform: PlatformDep, actor: ActorDep, body: CancelJob | None = None
) -> JobView:
    """Stop a job: at once when it waits, at its next checkpoint when it runs. 409 when it has ended."""
    return JobView.of(platform.cancel(job_id, body.reason if body else "", actor=actor))


@router.post("/jobs/{job_id}/retry", status_code=202)
def retry_job(
    job_id: JobId, platform: PlatformDep, actor: ActorDep, response: Response, body: RetryJob | None = None
) -> JobView:
    """A new job with the old one's request, or an edited one. 409 while the old one has not ended."""
    job = platform.replay(job_id, body.request if body else None, actor=actor)
    response.headers["Location"] = job_path(job.id)
    return JobView.of(job)


@router.get("/dead-letters")
def list_dead_letters(
    platform: PlatformDep,
    before: Seq = None,
    limit: Annotated[int, Query(ge=1, le=_LARGEST_PAGE)] = 50,
) -> DeadLetterList:
    """Work that could not be done, with reasons, newest first."""
    letters = platform.store.list_dead_letters(limit=limit, before_id=before)
    next_before = letters[-1].id if len(letters) == limit else None
    return DeadLetterList(
        dead_letters=[DeadLetterView.of(letter) for letter in letters], next_before=next_before
    )


@router.post("/dead-letters/{letter_id}/discard")
def discard_dead_letter(
    letter_id: Annotated[int, Path(ge=1, lt=2**63)], platform: PlatformDep, actor: ActorDep
) -> DeadLetterView:
    """Say that nobody will run this again. It stays on record."""
    return DeadLetterView.of(platform.store.discard(letter_id, actor))
