"""Who asks, for the audit log. The door has let them in already."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from pynomaly_tasks.core.audit_events import Actor
from pynomaly_tasks.core.trace import is_traceparent
from pynomaly_tasks.web.auth import COOKIE, Gatekeeper


async def _actor(request: Request) -> Actor:
    gatekeeper: Gatekeeper = request.app.state.gatekeeper
    name = "anyone"
    if gatekeeper.asks_for_key:
        name = "session" if COOKIE in request.cookies else "api key"
    return Actor(name=name, door="web", address=request.client.host if request.client else None)


async def _traceparent(request: Request) -> str | None:
    # What is none is ignored, as W3C Trace Context asks.
    given = request.headers.get("traceparent", "")
    return given if is_traceparent(given) else None


ActorDep = Annotated[Actor, Depends(_actor)]
TraceparentDep = Annotated[str | None, Depends(_traceparent)]
