"""Live updates as server-sent events, from the one reader that this process has."""

from __future__ import annotations

from collections.abc import AsyncIterable
from contextlib import aclosing
from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from pynomaly_tasks.errors import InvalidRequest
from pynomaly_tasks.realtime.reader import Gap, Update
from pynomaly_tasks.realtime.streams import EntryId
from pynomaly_tasks.web.requests import HubDep, JsonRoute

router = APIRouter(prefix="/api/v1", tags=["live"], route_class=JsonRoute)

_RECONNECT_MS = 1_000
_EXAMPLE_ID = "1795325256584-0"


async def _last_id(
    hub: HubDep,
    last_event_id: Annotated[str | None, Header(max_length=64, examples=[_EXAMPLE_ID])] = None,
) -> EntryId | None:
    """Where the client left off. Raises while the answer can still be an error, before the stream begins."""
    hub.check_room()
    if not last_event_id:
        return None
    entry_id = EntryId.find(last_event_id)
    if entry_id is None:
        raise InvalidRequest.of("Last-Event-ID", f"must be the id of an update, such as {_EXAMPLE_ID}")
    return entry_id


@router.get(
    "/events",
    response_class=EventSourceResponse,
    responses={
        200: {
            "description": "`update` events with the job's state and progress; `gap` where some are missing."
        }
    },
)
async def stream_events(
    hub: HubDep,
    after: Annotated[EntryId | None, Depends(_last_id)],
    job_id: Annotated[str | None, Query(min_length=1, max_length=255)] = None,
) -> AsyncIterable[ServerSentEvent]:
    """What happens to jobs, as it happens. Best effort: after a `gap`, ask for the present state."""
    yield ServerSentEvent(comment="watching", retry=_RECONNECT_MS)
    async with aclosing(hub.updates(after=after, job_id=job_id)) as updates:
        async for item in updates:
            yield _event(item)


def _event(item: Update | Gap) -> ServerSentEvent:
    if isinstance(item, Gap):
        return ServerSentEvent(event="gap", raw_data=orjson.dumps({"reason": item.reason}).decode())
    return ServerSentEvent(event="update", id=str(item.id), raw_data=item.data)
