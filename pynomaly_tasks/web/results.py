"""What jobs left: the result as JSON, and files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path
from starlette.responses import Response, StreamingResponse

from pynomaly_tasks.core.job import JobResult
from pynomaly_tasks.errors import NotFound
from pynomaly_tasks.web.headers import REPORT_CSP
from pynomaly_tasks.web.jobs import JobId
from pynomaly_tasks.web.representations import file_path
from pynomaly_tasks.web.requests import JsonRoute, PlatformDep

router = APIRouter(prefix="/api/v1/jobs", tags=["results"], route_class=JsonRoute)

_CHUNK_BYTES = 256 * 1024
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".csv": "text/csv; charset=utf-8",
    ".parquet": "application/vnd.apache.parquet",
}
_SHOWN_IN_BROWSER = frozenset({".html", ".json"})

FileName = Annotated[str, Path(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]


@router.get(
    "/{job_id}/result",
    response_class=Response,
    responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}},
)
def get_result(job_id: JobId, platform: PlatformDep) -> Response:
    """Summary, detail and files of a succeeded job; 404 while it has none."""
    result = platform.store.get_result(job_id)
    return Response(orjson.dumps(result_view(result)), media_type="application/json")


def result_view(result: JobResult) -> dict[str, Any]:
    """A result, for JSON."""
    return {
        "job_id": result.job_id,
        "attempt": result.attempt,
        "summary": dict(result.summary),
        "detail": dict(result.detail),
        "files": {name: file_path(result.job_id, name) for name in result.artifacts},
        "created_at": result.created_at,
    }


@router.get(
    "/{job_id}/files/{name}",
    response_class=Response,
    responses={200: {"description": "The file.", "content": {"application/octet-stream": {}}}},
)
def get_file(job_id: JobId, name: FileName, platform: PlatformDep) -> Response:
    """One file that the job left. A report is shown, in a sandbox; the rest is downloaded."""
    key = platform.store.get_result(job_id).artifacts.get(name)
    if key is None:
        raise NotFound(f"job {job_id} left no file {name}")
    suffix = PurePath(name).suffix.lower()
    n_bytes = platform.artifacts.size_bytes(key)
    disposition = "inline" if suffix in _SHOWN_IN_BROWSER else "attachment"
    headers = {"Content-Length": str(n_bytes), "Content-Disposition": f'{disposition}; filename="{name}"'}
    if suffix == ".html":
        headers["Content-Security-Policy"] = REPORT_CSP
    media_type = _MEDIA_TYPES.get(suffix, "application/octet-stream")
    return StreamingResponse(_chunks(platform, key), media_type=media_type, headers=headers)


def _chunks(platform: PlatformDep, key: str) -> Iterator[bytes]:
    with platform.artifacts.open(key) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
