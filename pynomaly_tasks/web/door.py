"""The door in front of every route: Host, origin, key, body size, and the headers of every answer."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pynomaly_tasks.telemetry import get_logger
from pynomaly_tasks.web.auth import Gatekeeper
from pynomaly_tasks.web.headers import SECURITY_HEADERS
from pynomaly_tasks.web.problems import problem, wants_page

log = get_logger(__name__)

_DRAIN_S = 2.0
_DRAIN_BYTES = 16 * 1024 * 1024
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OPEN_PATHS = ("/healthz", "/readyz", "/login", "/static/")


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorRules:
    """What may come in."""

    allowed_hosts: frozenset[str] | None  #: names in the Host header; None: any, because a key is asked for
    max_body_bytes: int
    max_upload_bytes: int  #: for ``upload_path``
    upload_path: str
    live_paths: frozenset[str] = frozenset()  #: GET here is asked for its origin too: it holds a place
    allowed_origins: frozenset[str] = frozenset()  #: pages elsewhere that may open these
    send_timeout_s: float = 60.0  #: a client that takes nothing for this long is let go


class Door:
    """ASGI middleware that refuses what must not reach a route."""

    def __init__(self, app: ASGIApp, rules: DoorRules, gatekeeper: Gatekeeper) -> None:
        self._app = app
        self._rules = rules
        self._gatekeeper = gatekeeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on with a counted body."""
        if scope["type"] == "websocket":
            refusal = self._refusal_of_visitor(HTTPConnection(scope))
            await (self._app if refusal is None else refusal)(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        has_stalled = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_stalled
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            try:
                async with asyncio.timeout(self._rules.send_timeout_s):
                    await send(message)
            except TimeoutError:
                has_stalled = True
                raise

        refusal = self._refusal(request)
        if refusal is not None:
            if "expect" not in request.headers:
                await _drain(receive)
            await refusal(scope, receive, send_with_headers)
            return
        try:
            await self._app(scope, _counted(receive, self._limit(request)), send_with_headers)
        except Exception:
            if not has_stalled:
                raise
            log.info("client_let_go", path=request.url.path, taken_nothing_for_s=self._rules.send_timeout_s)

    def _limit(self, request: Request) -> int:
        is_upload = request.url.path == self._rules.upload_path
        return self._rules.max_upload_bytes if is_upload else self._rules.max_body_bytes

    def _refusal(self, request: Request) -> Response | None:
        refusal = self._refusal_of_visitor(request)
        if refusal is not None:
            return _or_login(request, refusal)
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._limit(request):
            return problem(413, _too_large(self._limit(request)), headers={"Connection": "close"})
        return None

    def _refusal_of_visitor(self, request: HTTPConnection) -> Response | None:
        """Who asks, whatever it asks for."""
        if not self._host_is_ours(request.headers):
            return problem(
                400, "The Host header names another server. Use the address that the server printed."
            )
        if not self._may_come_from_there(request):
            return problem(403, "This request comes from a page of another site, so it was refused.")
        if request.url.path.startswith(_OPEN_PATHS):
            return None
        return self._gatekeeper.refusal(request)

    def _may_come_from_there(self, request: HTTPConnection) -> bool:
        is_live = request.scope["type"] == "websocket" or request.url.path in self._rules.live_paths
        if is_live:
            allowed = request.headers.get("origin") in self._rules.allowed_origins
            return allowed or _is_same_origin(request.headers)
        return request.scope["method"] in _SAFE_METHODS or _is_same_origin(request.headers)

    def _host_is_ours(self, headers: Headers) -> bool:
        """Against DNS rebinding: evil.example may resolve to 127.0.0.1, yet its pages say evil.example."""
        if self._rules.allowed_hosts is None:
            return True
        try:
            return urlsplit(f"//{headers.get('host', '')}").hostname in self._rules.allowed_hosts
        except ValueError:
            return False


def _is_same_origin(headers: Headers) -> bool:
    """Whether a browser sent this from a page of ours. What is no browser sends neither header."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def _or_login(request: Request, refusal: Response) -> Response:
    """People are led to the login page; programs get the refusal."""
    if refusal.status_code != 401 or not wants_page(request):
        return refusal
    return RedirectResponse(f"/login?next={quote(request.url.path)}", status_code=303)


def _too_large(limit_bytes: int) -> str:
    unit, name = (2**20, "MiB") if limit_bytes >= 2**20 else (2**10, "KiB")
    return f"The request is larger than the limit of {limit_bytes // unit:,} {name}."


def _counted(receive: Receive, limit_bytes: int) -> Receive:
    """``receive``, which fails with 413 as soon as more than the limit has come; nothing is kept."""
    n_bytes = 0

    async def receive_counted() -> Message:
        nonlocal n_bytes
        message = await receive()
        n_bytes += len(message.get("body", b""))
        if n_bytes > limit_bytes:
            if message.get("more_body"):
                await _drain(receive)
            raise HTTPException(413, _too_large(limit_bytes), headers={"Connection": "close"})
        return message

    return receive_counted


async def _drain(receive: Receive) -> None:
    """Read on for a moment: most senders look for an answer only when all is sent, and a reset would lose it."""
    n_bytes = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            while n_bytes < _DRAIN_BYTES:
                message = await receive()
                n_bytes += len(message.get("body", b""))
                if not message.get("more_body"):
                    return
