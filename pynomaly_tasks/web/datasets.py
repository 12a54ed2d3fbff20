"""Files that jobs can read: upload one, list them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from pynomaly_tasks.errors import InvalidDataset
from pynomaly_tasks.web.problems import PROBLEM_RESPONSES
from pynomaly_tasks.web.representations import DatasetList, DatasetView
from pynomaly_tasks.web.requests import PlatformDep
from pynomaly_tasks.web.uploads import FIELD, Upload

router = APIRouter(prefix="/api/v1", tags=["datasets"], responses=PROBLEM_RESPONSES)

UPLOAD_PATH = "/api/v1/datasets"
_LISTED = 200
_FORM = {
    "type": "object",
    "required": [FIELD],
    "properties": {
        FIELD: {"type": "string", "format": "binary", "description": "CSV, Parquet or JSON lines."}
    },
}


@router.post(
    "/datasets",
    status_code=201,
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
)
async def upload_dataset(request: Request, platform: PlatformDep, response: Response) -> DatasetView:
    """Store a file for jobs to read. Whole or not at all; 413 past the limit, 507 on a full disk."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise HTTPException(415, f"Send multipart/form-data with the file in the field {FIELD!r}.")
    with Upload(content_type, platform.settings.uploads_directory()) as upload:
        await upload.receive(request.stream())
        if upload.n_bytes == 0:
            raise InvalidDataset.of(FIELD, "the file is empty (0 bytes)")
        view = _view(upload.keep())
    response.headers["Location"] = UPLOAD_PATH
    return view


@router.get("/datasets")
def list_datasets(platform: PlatformDep) -> DatasetList:
    """The uploads, newest first; at most 200."""
    return DatasetList(datasets=list_uploads(platform.settings.uploads_directory()))


def list_uploads(directory: Path) -> list[DatasetView]:
    """The files there, newest first; at most 200."""
    if not directory.is_dir():
        return []
    files = [path for path in directory.iterdir() if path.is_file() and not path.name.startswith(".")]
    files.sort(key=lambda path: (-path.stat().st_mtime, path.name))
    return [_view(path) for path in files[:_LISTED]]


def _view(path: Path) -> DatasetView:
    status = path.stat()
    uploaded_at = datetime.fromtimestamp(status.st_mtime, UTC)
    return DatasetView(source=path.name, name=path.name, size_bytes=status.st_size, uploaded_at=uploaded_at)
