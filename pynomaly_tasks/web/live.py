"""Live updates as server-sent events, from the one reader that this process has."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import BaseModel, Field

from pynomaly_tasks.errors import InvalidRequest
from pynomaly_tasks.realtime.filters import Filter
from pynomaly_tasks.realtime.hub import StreamHub
from pynomaly_tasks.realtime.position import START, Position
from pynomaly_tasks.realtime.update import Item, Recap, Update
from pynomaly_tasks.web.auth import TICKET_S
from pynomaly_tasks.web.live_messages import (
    EXAMPLE_ID,
    FilterFields,
    describe,
    event,
    heartbeat_event,
    is_owed_snapshot,
    snapshot_event,
    update_event,
)
from pynomaly_tasks.web.requests import HubDep, JsonRoute
from pynomaly_tasks.web.snapshots import Snapshots

router = APIRouter(tags=["live"], route_class=JsonRoute)

PATHS = frozenset({"/live", "/api/v1/events"})
_RECONNECT_MS = 1_000
_EVENTS = "`update` events; after a `gap` a `snapshot`; `skipped`, `away` and `back`. See docs/live.md."


class Ticket(BaseModel):
    """Opens one or more WebSockets soon, for a page that can send neither header nor cookie."""

    ticket: str = Field(description="Offer it as the subprotocol `ticket.<ticket>`, beside `pynomaly.v1`.")
    ends_in_s: int


async def _last_id(
    hub: HubDep,
    last_event_id: Annotated[str | None, Header(max_length=128, examples=[EXAMPLE_ID])] = None,
) -> Position | None:
    """Where the client left off. Raises while the answer can still be an error, before the stream begins."""
    hub.check_room()
    if not last_event_id:
        await hub.catch_up(START)  # so that there is an id to give
        return None
    position = Position.find(last_event_id)
    if position is None:
        raise InvalidRequest.of("Last-Event-ID", f"must be the id of an update, such as {EXAMPLE_ID}")
    await hub.catch_up(position)
    return position


@router.get(
    "/live",
    response_model=None,
    responses={200: {"content": {"text/event-stream": {}}, "description": _EVENTS}},
)
@router.get("/api/v1/events", response_model=None, include_in_schema=False)
async def stream_events(
    request: Request,
    hub: HubDep,
    after: Annotated[Position | None, Depends(_last_id)],
    fields: Annotated[FilterFields, Query()],
) -> EventSourceResponse:
    """What happens to jobs, as it happens: `update` events; after a `gap` a `snapshot` of the present state.

    Best effort, and resumable: send the id of the last event as Last-Event-ID, as browsers do.
    """
    heartbeat_s = request.app.state.platform.settings.live.heartbeat_s
    told = _tell(hub, request.app.state.snapshots, fields.to_filter(), after, heartbeat_s)
    # Not FastAPI's generator of events: that would encode each event anew for each client.
    return EventSourceResponse(told)


@router.post("/api/v1/live/tickets", status_code=201)
async def make_ticket(request: Request) -> Ticket:
    """For a page on another host: its server asks for a ticket with the key, the page opens a WebSocket with it."""
    return Ticket(ticket=request.app.state.gatekeeper.new_ticket(), ends_in_s=TICKET_S)


async def _tell(
    hub: StreamHub, snapshots: Snapshots, which: Filter, after: Position | None, heartbeat_s: float
) -> AsyncGenerator[bytes]:
    with hub.watching(update_event) as watcher:
        if after is None:
            hub.add_filters(watcher, [which])
        else:
            hub.resume(watcher, [which], after)
        here = hub.position if after is None else after
        yield format_sse_event(
            comment="watching", retry=_RECONNECT_MS, id=None if here is None else str(here)
        )
        while (items := await watcher.take(heartbeat_s)) is not None:
            yield b"".join([await _ready(item, which, snapshots) for item in items]) or heartbeat_event(
                hub.position
            )


async def _ready(item: Item, which: Filter, snapshots: Snapshots) -> bytes:
    if isinstance(item, Update):
        return item.encoded(update_event)
    ready = b""
    if not isinstance(item, Recap):
        type_, position, content = describe(item)
        ready = event(type_, position, **content)
    if isinstance(item, Recap) or is_owed_snapshot(item):
        ready += snapshot_event(await snapshots.take([which]))
    return ready
