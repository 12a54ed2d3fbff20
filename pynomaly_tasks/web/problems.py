"""Every error as RFC 9457 problem+json, with the field, the limit and the way out."""

from __future__ import annotations

import errno
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from pynomaly_tasks.errors import Conflict, InvalidInput, NotFound, PynomalyError, Unavailable
from pynomaly_tasks.telemetry import get_logger
from pynomaly_tasks.web.headers import SECURITY_HEADERS
from pynomaly_tasks.web.templates import page

log = get_logger(__name__)

RETRY_AFTER_S = 5

_OUR_SIDE = "The request failed on our side; the server's log says why."
_FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class FieldMessage(BaseModel):
    """One thing wrong with one field."""

    field: str = Field(examples=["request.detector.params.n_trees"])
    message: str = Field(examples=["must be at most 1000"])


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = "about:blank"
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str
    errors: list[FieldMessage] = []


def problem(
    status: int,
    detail: str,
    *,
    errors: list[FieldMessage] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """The response that says so."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=errors or [])
    return Response(
        orjson.dumps(body.model_dump()),
        status_code=status,
        media_type="application/problem+json",
        headers=headers,
    )


def wants_page(request: Request) -> bool:
    """Whether a person asked, with a browser, for a page."""
    is_page = request.method == "GET" and not request.url.path.startswith(("/api/", "/static/"))
    return is_page and "text/html" in request.headers.get("accept", "")


def _answer(
    request: Request,
    status: int,
    detail: str,
    *,
    errors: list[FieldMessage] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """A problem for programs, a page for people."""
    if not wants_page(request):
        return problem(status, detail, errors=errors, headers=headers)
    title = HTTPStatus(status).phrase
    response = page(request, "error.html", status, status=status, title=title, detail=detail)
    response.headers.update(headers or {})
    return response


def _answer_ours(request: Request, error: PynomalyError) -> Response:
    if isinstance(error, InvalidInput):
        errors = [FieldMessage(field=p.field, message=p.message) for p in error.problems]
        return _answer(request, 422, str(error), errors=errors)
    if isinstance(error, NotFound):
        return _answer(request, 404, str(error))
    if isinstance(error, Conflict):
        return _answer(request, 409, str(error))
    if isinstance(error, Unavailable):
        log.warning("neighbour_unavailable", error=f"{type(error).__name__}: {error}")
        return _answer(request, 503, str(error), headers={"Retry-After": str(RETRY_AFTER_S)})
    log.error("unexpected_error", error=f"{type(error).__name__}: {error}")
    return _answer(request, 500, _OUR_SIDE)


def add_problem_handlers(app: FastAPI) -> None:
    """Make every error leave ``app`` as a problem, or as a page where a person asked for one."""

    @app.exception_handler(PynomalyError)
    async def _ours(request: Request, error: PynomalyError) -> Response:
        return _answer_ours(request, error)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        return _answer(request, error.status_code, str(error.detail), headers=dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        errors = [_field_message(dict(entry)) for entry in error.errors()]
        return _answer(request, 422, "; ".join(f"{e.field}: {e.message}" for e in errors), errors=errors)

    @app.exception_handler(ClientDisconnect)
    async def _gone(_request: Request, _error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # for nobody: the sender went away in the middle of its request

    @app.exception_handler(OSError)
    async def _disk(request: Request, error: OSError) -> Response:
        if error.errno not in _FULL_DISK:
            raise error
        log.error("disk_full", error=str(error))
        return _answer(
            request, 507, "The server's disk is full; make room in the data directory, then try again."
        )

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, _error: Exception) -> Response:
        # Starlette answers this one outside our middleware, and then logs the traceback.
        return _answer(request, 500, _OUR_SIDE, headers=dict(SECURITY_HEADERS))


def _field_message(entry: dict[str, Any]) -> FieldMessage:
    """One finding of pydantic, in the words of the API."""
    loc = [str(part) for part in entry["loc"]]
    if entry["type"] == "json_invalid":
        reason = entry.get("ctx", {}).get("error", entry["msg"])
        return FieldMessage(field="body", message=f"is not valid JSON: {reason}")
    place, *path = loc
    field = ".".join(path) if place in {"body", "query", "path", "header"} and path else ".".join(loc)
    if entry["type"] == "extra_forbidden":
        return FieldMessage(field=field, message="is not a field of this request; remove it")
    return FieldMessage(field=field, message=str(entry["msg"]).removeprefix("Value error, "))
