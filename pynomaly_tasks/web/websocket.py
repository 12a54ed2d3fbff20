"""Live updates over WebSocket: what happens to jobs, to clients that say what they want to know."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from pynomaly_tasks.realtime.filters import Filter
from pynomaly_tasks.realtime.hub import StreamHub, TooManyClients
from pynomaly_tasks.realtime.position import START
from pynomaly_tasks.realtime.streams import STREAM_NAMES
from pynomaly_tasks.realtime.update import Item, Recap, Update
from pynomaly_tasks.realtime.watcher import Watcher
from pynomaly_tasks.settings.faces import LiveSettings
from pynomaly_tasks.telemetry import get_logger
from pynomaly_tasks.web.auth import LIVE_PROTOCOL, offered_protocols
from pynomaly_tasks.web.live_messages import (
    Refused,
    Subscribe,
    Unsubscribe,
    describe,
    is_owed_snapshot,
    message,
    read_last_id,
    read_message,
    snapshot_frame,
    update_frame,
)
from pynomaly_tasks.web.problems import RETRY_AFTER_S, problem
from pynomaly_tasks.web.snapshots import Snapshots
from pynomaly_tasks.web.socket_protocol import SocketProtocol, socket_of

log = get_logger(__name__)
router = APIRouter()

TEXT_ONLY = 1003
TOO_MANY_MISTAKES = 1008
RESTARTING = 1012
TOO_SLOW = 1013
MAX_MISTAKES = 20
RETRY_LATER = {"Retry-After": str(RETRY_AFTER_S)}
_SEND_TIMEOUT_S = 30.0


@router.websocket("/ws")
async def watch(websocket: WebSocket) -> None:
    """See docs/live.md for the messages, limits and close codes. The door has asked for key and origin."""
    state = websocket.app.state
    hub: StreamHub = state.hub
    socket = socket_of(websocket.scope)
    try:
        hub.check_room()
    except TooManyClients as error:
        await websocket.send_denial_response(problem(503, str(error), headers=RETRY_LATER))
        return
    await hub.catch_up(START)  # so that there is an id to give
    with hub.watching(update_frame, socket.write_now) as watcher:
        spoken = LIVE_PROTOCOL if LIVE_PROTOCOL in offered_protocols(websocket.headers) else None
        await websocket.accept(subprotocol=spoken)
        session = _Session(websocket, socket, hub, watcher, state.snapshots, state.platform.settings.live)
        await session.run()


class _Session:
    """One connection."""

    def __init__(
        self,
        websocket: WebSocket,
        socket: SocketProtocol,
        hub: StreamHub,
        watcher: Watcher,
        snapshots: Snapshots,
        limits: LiveSettings,
    ) -> None:
        self._websocket = websocket
        self._socket = socket
        self._hub = hub
        self._watcher = watcher
        self._snapshots = snapshots
        self._limits = limits
        self._subscriptions: dict[str, Filter] = {}
        self._n_mistakes = 0

    async def run(self) -> None:
        """Until the client leaves, is let go, or the process stops."""
        telling = asyncio.create_task(self._tell(), name="tells one live client")
        listening = asyncio.create_task(self._listen(), name="listens to one live client")
        try:
            done, _ = await asyncio.wait({telling, listening}, return_when=asyncio.FIRST_COMPLETED)
            codes = [code for task in done if (code := task.result()) is not None]
            if codes:
                self._end(codes[0])
        finally:
            for task in (telling, listening):
                task.cancel()
            await asyncio.gather(telling, listening, return_exceptions=True)

    def _end(self, code: int) -> None:
        last = b""
        if code == TOO_SLOW:
            log.info("live_client_let_go", n_waiting=self._watcher.n_waiting)
            if self._watcher.n_waiting:
                last = message("gap", streams=STREAM_NAMES, reason="updates were read too slowly")
        self._socket.farewell(last, code)

    # --- telling ----------------------------------------------------------------------------

    async def _tell(self) -> int | None:
        """Returns the code to close with; None when the client is gone."""
        await self._write(
            message(
                "welcome",
                heartbeat_s=self._limits.heartbeat_s,
                max_subscriptions=self._limits.max_subscriptions,
                max_message_bytes=self._limits.max_message_kb * 1024,
            )
        )
        while (items := await self._watcher.take(self._limits.heartbeat_s)) is not None:
            if not items:
                # At once or not at all: behind a later update its id would take the client back.
                self._socket.write_now(message("heartbeat", self._hub.position))
            elif not await self._pass_on(items):
                return TOO_SLOW
        return TOO_SLOW if self._watcher.was_too_slow else RESTARTING

    async def _pass_on(self, items: list[Item]) -> bool:
        updates: list[bytes] = []
        for item in items:
            if isinstance(item, Update):
                updates.append(item.encoded(update_frame))
                continue
            if updates and not await self._write(b"".join(updates)):
                return False
            updates = []
            if not isinstance(item, Recap):
                type_, position, content = describe(item)
                if not await self._write(message(type_, position, **content)):
                    return False
            if isinstance(item, Recap) or is_owed_snapshot(item):
                await self._send_snapshot()
        return not updates or await self._write(b"".join(updates))

    async def _send_snapshot(self) -> bool:
        return await self._write(snapshot_frame(await self._snapshots.take(self._watcher.filters)))

    async def _write(self, frames: bytes) -> bool:
        """Wait for the client to take what came before; False when it takes nothing."""
        if not await self._is_writable():
            return False
        self._socket.write_now(frames)
        return True

    async def _is_writable(self) -> bool:
        if self._socket.writable.is_set():
            return True
        taken = asyncio.ensure_future(self._socket.writable.wait())
        closed = asyncio.ensure_future(self._watcher.closed.wait())
        try:
            await asyncio.wait({taken, closed}, timeout=_SEND_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            taken.cancel()
            closed.cancel()
        return self._socket.writable.is_set()

    # --- listening --------------------------------------------------------------------------

    async def _listen(self) -> int | None:
        """Returns the code to close with; None when the client is gone."""
        try:
            while True:
                said = await self._websocket.receive()
                if said["type"] == "websocket.disconnect":
                    return None
                if said.get("text") is None:
                    await self._refuse(Refused("binary", "", "binary messages are not taken; send JSON text"))
                    return TEXT_ONLY
                try:
                    await self._do(said["text"])
                except Refused as refused:
                    await self._refuse(refused)
                    self._n_mistakes += 1
                    if self._n_mistakes >= MAX_MISTAKES:
                        return TOO_MANY_MISTAKES
        except WebSocketDisconnect:
            return None

    async def _refuse(self, refused: Refused) -> None:
        await self._write(message("error", code=refused.code, field=refused.field, message=str(refused)))

    async def _do(self, text: str) -> None:
        said = read_message(text)
        if isinstance(said, Subscribe):
            await self._subscribe(said)
        elif isinstance(said, Unsubscribe):
            which = self._subscriptions.pop(said.name, None)
            if which is None:
                raise Refused("unknown_subscription", "name", f"there is no subscription {said.name!r}")
            self._hub.remove_filters(self._watcher, [which])
            await self._write(message("unsubscribed", name=said.name))
        else:
            await self._write(message("pong"))

    async def _subscribe(self, said: Subscribe) -> None:
        if said.name in self._subscriptions:
            raise Refused("name_taken", "name", f"{said.name!r} is watched already; unsubscribe first")
        if len(self._subscriptions) >= self._limits.max_subscriptions:
            limit = self._limits.max_subscriptions
            raise Refused("too_many_subscriptions", "name", f"at most {limit} at once; unsubscribe from some")
        which = said.filter.to_filter()
        after = None
        if said.last_event_id is not None:
            if self._subscriptions:
                raise Refused(
                    "late_resume", "last_event_id", "only the first subscription of a connection may resume"
                )
            after = read_last_id("last_event_id", said.last_event_id)
            await self._hub.catch_up(after)
        if not await self._is_writable():
            return
        self._subscriptions[said.name] = which
        # The rest without an await: no update may come between the id told and the filter.
        position = self._hub.position if after is None and self._watcher.is_idle else after
        self._socket.write_now(message("subscribed", position, name=said.name))
        if after is None:
            self._hub.add_filters(self._watcher, [which])
        else:
            self._hub.resume(self._watcher, [which], after)
        if said.snapshot:
            self._watcher.tell(Recap())
