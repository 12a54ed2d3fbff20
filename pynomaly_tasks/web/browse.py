"""The pages: start a detection, watch jobs, read results."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse

from pynomaly_tasks.core.job import Job, JobResult, JobState
from pynomaly_tasks.errors import NotFound
from pynomaly_tasks.jobs.options import Tag
from pynomaly_tasks.realtime.streams import ACTIVITY_STREAM, HEALTH_STREAM, NOTIFICATIONS_STREAM
from pynomaly_tasks.web.datasets import list_uploads
from pynomaly_tasks.web.detectors import detector_forms
from pynomaly_tasks.web.jobs import JobId, Seq
from pynomaly_tasks.web.representations import file_path, job_path
from pynomaly_tasks.web.requests import HubDep, PlatformDep
from pynomaly_tasks.web.templates import page, words

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

_RECENT = 12
_LATEST = 6
_BESIDE_JOBS = (NOTIFICATIONS_STREAM, HEALTH_STREAM, ACTIVITY_STREAM)
_PAGE = 50
_TOP_ANOMALIES = 50
REPORT_TAG = "report-of:"


async def _latest(hub: HubDep) -> str:
    """What was told lately besides states of jobs, as a JSON list, oldest first."""
    told = hub.latest(_BESIDE_JOBS, _LATEST)
    return f"[{','.join(update.data.decode() for update in told if 'event' in update.keys)}]"


@router.get("/")
def show_home(
    request: Request, platform: PlatformDep, latest_json: Annotated[str, Depends(_latest)]
) -> HTMLResponse:
    """Start a detection; the latest jobs beside it."""
    return page(
        request,
        "home.html",
        forms=detector_forms(),
        uploads=list_uploads(platform.settings.uploads_directory()),
        max_upload_bytes=platform.settings.data.max_upload_mb * 2**20,
        jobs=_rows(platform.store.list_jobs(limit=_RECENT)),
        latest_json=latest_json,
    )


@router.get("/jobs")
def show_jobs(
    request: Request,
    platform: PlatformDep,
    state: Annotated[JobState | Literal[""], Query()] = "",
    kind: Annotated[Tag | Literal[""], Query()] = "",
    before: Seq = None,
) -> HTMLResponse:
    """All jobs, newest first."""
    states = [JobState(state)] if state else None
    jobs = platform.store.list_jobs(states=states, kind=kind or None, before_seq=before, limit=_PAGE)
    return page(
        request,
        "jobs.html",
        jobs=_rows(jobs),
        kinds=sorted(platform.kinds),
        states=list(JobState),
        state=state,
        kind=kind,
        before=before,
        next_before=jobs[-1].seq if len(jobs) == _PAGE else None,
    )


@router.get("/jobs/{job_id}")
def show_job(request: Request, job_id: JobId, platform: PlatformDep) -> HTMLResponse:
    """One job: state, progress, attempts, result."""
    return page(request, "job.html", **_job_values(platform, job_id))


@router.get("/jobs/{job_id}/panel")
def show_job_panel(request: Request, job_id: JobId, platform: PlatformDep) -> HTMLResponse:
    """The part of the job's page that changes while it runs."""
    return page(request, "job_panel.html", **_job_values(platform, job_id))


@router.get("/dead-letters")
def show_dead_letters(request: Request, platform: PlatformDep, before: Seq = None) -> HTMLResponse:
    """What could not be done, and why."""
    letters = platform.store.list_dead_letters(limit=_PAGE, before_id=before)
    next_before = letters[-1].id if len(letters) == _PAGE else None
    return page(request, "dead_letters.html", letters=letters, before=before, next_before=next_before)


def _rows(jobs: list[Job]) -> list[dict[str, Any]]:
    return [{"job": job, "title": title_of(job)} for job in jobs]


def _job_values(platform: PlatformDep, job_id: str) -> dict[str, Any]:
    job = platform.store.get_job(job_id)
    result = _find_result(platform, job)
    return {
        "job": job,
        "title": title_of(job),
        "attempts": platform.store.list_attempts(job_id),
        "request_json": orjson.dumps(dict(job.request), option=orjson.OPT_INDENT_2).decode(),
        "result": result,
        "detail_json": ""
        if result is None
        else orjson.dumps(dict(result.detail), option=orjson.OPT_INDENT_2).decode(),
        "files": _files(platform, result),
        "report": _find_report(platform, job),
        "n_shown": _TOP_ANOMALIES,
        "path": job_path(job_id),
    }


def _find_result(platform: PlatformDep, job: Job) -> JobResult | None:
    if job.state is not JobState.SUCCEEDED:
        return None
    try:
        return platform.store.get_result(job.id)
    except NotFound:
        return None  # cleaned up; the page says so


def _files(platform: PlatformDep, result: JobResult | None) -> list[dict[str, Any]]:
    if result is None:
        return []
    files = []
    for name, key in sorted(result.artifacts.items()):
        with suppress(NotFound):  # removed by hand; the rest of the page is still of use
            size_bytes = platform.artifacts.size_bytes(key)
            files.append({"name": name, "href": file_path(result.job_id, name), "size_bytes": size_bytes})
    return files


def _find_report(platform: PlatformDep, job: Job) -> Job | None:
    """The latest report on this job that was made, or is being made, from its page."""
    if job.state is not JobState.SUCCEEDED:
        return None
    reports = platform.store.list_jobs(kind="generate_report", tag=f"{REPORT_TAG}{job.id}", limit=1)
    return reports[0] if reports else None


def title_of(job: Job) -> str:
    """What the job is about, in a few words."""
    request = job.request
    dataset = str(request.get("dataset", "")).rpartition("/")[2]
    detector = request.get("detector")
    name = detector.get("name") if isinstance(detector, Mapping) else detector
    if job.kind == "generate_report" and job.summary and job.summary.get("title"):
        return f"Report: {job.summary['title']}"
    if dataset and isinstance(name, str):
        return f"{words(name).capitalize()} on {dataset}"
    if dataset:
        return f"{words(job.kind).capitalize()}: {dataset}"
    return words(job.kind).capitalize()
