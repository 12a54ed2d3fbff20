"""Who may come in: the API key, the cookie that stands for it, and the count of those who guessed."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import OrderedDict
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from pynomaly_tasks.web.problems import problem
from pynomaly_tasks.web.templates import page

COOKIE = "pynomaly_session"
SESSION_S = 12 * 3600
TICKET_S = 30
LIVE_PROTOCOL = "pynomaly.v1"  #: the WebSocket subprotocol; beside it a browser's page offers its ticket
_TICKET_PREFIX = "ticket."
MAX_FAILURES = 20  #: wrong keys from one address in a window
FAILURE_WINDOW_S = 60.0
_MAX_ADDRESSES = 10_000


class Gatekeeper:
    """Compares keys in constant time. Without a key everybody may come in (and the server is on loopback)."""

    def __init__(self, api_key: str | None) -> None:
        self._key = api_key.encode() if api_key else None
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()

    @property
    def asks_for_key(self) -> bool:
        """Whether there is a key at all."""
        return self._key is not None

    def refusal(self, request: HTTPConnection) -> Response | None:
        """None for who may come in; else 401, or 429 for an address that guesses."""
        if self._key is None or self._has_session(request) or self._has_ticket(request):
            return None
        address = request.client.host if request.client else ""
        if self._n_failures(address) >= MAX_FAILURES:
            wait_s = str(int(FAILURE_WINDOW_S))
            return problem(
                429, "Too many wrong keys from this address; wait a minute.", headers={"Retry-After": wait_s}
            )
        given = _given_key(request)
        if given is not None and self.knows(given, address):
            return None
        detail = (
            "Send the API key as X-API-Key or as a bearer token."
            if given is None
            else "The API key is wrong."
        )
        return problem(401, detail, headers={"WWW-Authenticate": "Bearer"})

    def knows(self, key: str, address: str) -> bool:
        """Whether this is the key; a wrong one is counted against the address."""
        if self._key is not None and hmac.compare_digest(_digest(key.encode()), _digest(self._key)):
            return True
        started_at, n_failures = self._failures.pop(address, (time.monotonic(), 0))
        if time.monotonic() - started_at > FAILURE_WINDOW_S:
            started_at, n_failures = time.monotonic(), 0
        self._failures[address] = (started_at, n_failures + 1)
        while len(self._failures) > _MAX_ADDRESSES:
            self._failures.popitem(last=False)
        return False

    def is_guessing(self, address: str) -> bool:
        """Whether this address has used up its tries for now."""
        return self._n_failures(address) >= MAX_FAILURES

    def new_session(self) -> str:
        """A cookie value that ends after SESSION_S. It tells nothing about the key and dies with it."""
        return self._signed("session", SESSION_S)

    def new_ticket(self) -> str:
        """Opens a WebSocket within TICKET_S, for a page that can send neither header nor cookie."""
        return self._signed("ticket", TICKET_S)

    def _has_session(self, request: HTTPConnection) -> bool:
        return self._is_signed("session", request.cookies.get(COOKIE, ""))

    def _has_ticket(self, request: HTTPConnection) -> bool:
        offered = offered_protocols(request.headers) if request.scope["type"] == "websocket" else []
        tickets = [name.removeprefix(_TICKET_PREFIX) for name in offered if name.startswith(_TICKET_PREFIX)]
        return any(self._is_signed("ticket", ticket) for ticket in tickets[:1])

    def _signed(self, what: str, for_s: int) -> str:
        ends_at = str(int(time.time()) + for_s)
        return f"{ends_at}.{self._signature(what, ends_at)}"

    def _is_signed(self, what: str, text: str) -> bool:
        ends_at, _, signature = text.partition(".")
        if not ends_at.isascii() or not ends_at.isdecimal() or len(ends_at) > 12 or not signature.isascii():
            return False
        return hmac.compare_digest(signature, self._signature(what, ends_at)) and int(ends_at) > time.time()

    def _signature(self, what: str, ends_at: str) -> str:
        return hmac.new(self._key or b"", f"{what} until {ends_at}".encode(), hashlib.sha256).hexdigest()

    def _n_failures(self, address: str) -> int:
        started_at, n_failures = self._failures.get(address, (0.0, 0))
        return n_failures if time.monotonic() - started_at <= FAILURE_WINDOW_S else 0


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def offered_protocols(headers: Headers) -> list[str]:
    """WebSocket subprotocols that the client would speak."""
    return [name.strip() for line in headers.getlist("sec-websocket-protocol") for name in line.split(",")]


def _given_key(request: HTTPConnection) -> str | None:
    key = request.headers.get("x-api-key")
    if key is not None:
        return key
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token else None


def build_login_router(gatekeeper: Gatekeeper) -> APIRouter:
    """The page that turns the key into a cookie."""
    router = APIRouter(include_in_schema=False)

    @router.get("/login")
    def show_login(request: Request, next: str = "/") -> Response:  # noqa: A002 (the name in the address)
        if not gatekeeper.asks_for_key:
            return RedirectResponse("/", status_code=303)
        return page(request, "login.html", next=_own_path(next))

    @router.post("/login")
    def log_in(
        request: Request,
        key: Annotated[str, Form()] = "",
        next: Annotated[str, Form()] = "/",  # noqa: A002 (the name in the form)
    ) -> Response:
        address = request.client.host if request.client else ""
        if gatekeeper.is_guessing(address):
            return page(
                request, "login.html", 429, next=_own_path(next), error="Too many wrong keys. Wait a minute."
            )
        if not gatekeeper.knows(key, address):
            return page(request, "login.html", 401, next=_own_path(next), error="That is not the key.")
        response = RedirectResponse(_own_path(next), status_code=303)
        response.set_cookie(
            COOKIE,
            gatekeeper.new_session(),
            max_age=SESSION_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    @router.post("/logout")
    def log_out() -> Response:
        response = RedirectResponse("/login", status_code=303)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    return router


def _own_path(path: str) -> str:
    """A path of this site; anything that could lead elsewhere becomes the first page."""
    is_own = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_own else "/"
