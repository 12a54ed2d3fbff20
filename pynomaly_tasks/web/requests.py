"""How JSON comes in: strictly, and no deeper or larger than can be read safely."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import orjson
from fastapi import Depends, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pynomaly_tasks.bootstrap import Platform
from pynomaly_tasks.realtime.hub import StreamHub


class _JsonRequest(Request):
    """Reads JSON as RFC 8259 has it: no NaN, and at most 1,024 levels."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = orjson.loads(await self.body())
        return self._json


class JsonRoute(APIRoute):
    """A route whose body, if it takes one, is JSON; anything else is refused with 415."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler with that check before it."""
        handler = super().get_route_handler()
        takes_body = self.body_field is not None

        async def read_strictly(request: Request) -> Response:
            if takes_body and _has_body(request):
                content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
                if content_type != "application/json":
                    raise HTTPException(415, "Send JSON, with the header Content-Type: application/json.")
            return await handler(_JsonRequest(request.scope, request.receive))

        return read_strictly


def _has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


async def _platform(request: Request) -> Platform:
    platform: Platform = request.app.state.platform
    return platform


async def _hub(request: Request) -> StreamHub:
    hub: StreamHub = request.app.state.hub
    return hub


PlatformDep = Annotated[Platform, Depends(_platform)]
HubDep = Annotated[StreamHub, Depends(_hub)]
