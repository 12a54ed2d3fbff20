"""The group ``dashboard``: events become frames in the live streams."""

from __future__ import annotations

from collections.abc import Sequence

from pynomaly_tasks.consumers.frames import build_frame
from pynomaly_tasks.core.event import ANOMALY_EVENTS, AUDIT_EVENTS, JOB_EVENTS, SYSTEM_EVENTS, Event
from pynomaly_tasks.events.effect import inbox_key
from pynomaly_tasks.realtime.relay import FrameRelay

TOPICS = (JOB_EVENTS, ANOMALY_EVENTS, SYSTEM_EVENTS, AUDIT_EVENTS)


class DashboardEffect:
    """Appends a frame for each event; the mark that it was applied lies in Redis beside the streams."""

    # One step of Redis' for each batch, in which Redis serves nobody else: about 2 ms.
    batch_size = 200

    def __init__(self, relay: FrameRelay, *, own_source: str) -> None:
        self._relay = relay
        self._own_source = own_source

    async def apply(self, events: Sequence[Event], *, replay_id: str | None = None) -> int:
        """See `Effect.apply`."""
        return await self._relay.append(
            [build_frame(event, inbox_key(event, self._own_source, replay_id)) for event in events]
        )

    async def close(self) -> None:
        """Disconnect."""
        await self._relay.close()
