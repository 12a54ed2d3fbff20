"""Files that jobs can read: upload one, list them."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from pynomaly_tasks.core.audit_events import Actor, DatasetUploaded
from pynomaly_tasks.errors import InvalidDataset
from pynomaly_tasks.web.actor import ActorDep
from pynomaly_tasks.web.representations import DatasetList, DatasetView
from pynomaly_tasks.web.requests import PlatformDep
from pynomaly_tasks.web.uploads import FIELD, Upload

router = APIRouter(prefix="/api/v1", tags=["datasets"])

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
async def upload_dataset(
    request: Request, platform: PlatformDep, actor: ActorDep, response: Response
) -> DatasetView:
    """Store a file for jobs to read. Whole or not at all; 413 past the limit, 507 on a full disk."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise HTTPException(415, f"Send multipart/form-data with the file in the field {FIELD!r}.")
    with Upload(content_type, platform.settings.uploads_directory()) as upload:
        await upload.receive(request.stream())
        if upload.n_bytes == 0:
            raise InvalidDataset.of(FIELD, "the file is empty (0 bytes)")
        view = await run_in_threadpool(_kept, upload, platform, actor)
    response.headers["Location"] = UPLOAD_PATH
    return view


@router.get("/datasets")
def list_datasets(platform: PlatformDep) -> DatasetList:
    """The uploads, newest first; at most 200."""
    return DatasetList(datasets=list_uploads(platform.settings.uploads_directory()))


def _kept(upload: Upload, platform: PlatformDep, actor: Actor) -> DatasetView:
    """Keep the file if it is what its name says. Raises InvalidDataset, and removes it, if it is not.

    Raises StoreUnavailable, and removes it, too, when the audit log cannot be told.
    """
    path = upload.keep()
    try:
        platform.datasets.check(path.name)
        uploaded = DatasetUploaded(
            actor=actor.name,
            door=actor.door,
            address=actor.address,
            dataset=path.name,
            size_bytes=upload.n_bytes,
        )
        platform.store.add_events([uploaded], key=path.name)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return _view(path)


def list_uploads(directory: Path) -> list[DatasetView]:
    """The files there, newest first; at most 200."""
    views = []
    for path in directory.iterdir() if directory.is_dir() else ():
        with suppress(FileNotFoundError):  # removed since
            if path.is_file() and not path.name.startswith("."):
                views.append(_view(path))
    views.sort(key=lambda view: view.uploaded_at, reverse=True)
    return views[:_LISTED]


def _view(path: Path) -> DatasetView:
    status = path.stat()
    uploaded_at = datetime.fromtimestamp(status.st_mtime, UTC)
    return DatasetView(source=path.name, name=path.name, size_bytes=status.st_size, uploaded_at=uploaded_at)
