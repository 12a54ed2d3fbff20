"""Deletes from Kafka's topics what is settled and older than it can be replayed, and keeps the ledger readable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from aiokafka.errors import KafkaError

from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.messaging.backends.kafka.follower import Follower
from pynomaly_tasks.messaging.backends.kafka.wire import KafkaWire
from pynomaly_tasks.telemetry import get_logger

log = get_logger(__name__)

_EVERY_S = 60.0
#: Where Kafka deletes by age, a snapshot must be younger than that.
SNAPSHOT_EVERY_S = 3_600.0


class Keeper:
    """Looks once a minute at the lanes that this process settled something in."""

    def __init__(
        self,
        wire: KafkaWire,
        follower: Follower,
        topic_of: Callable[[str, int], str],
        *,
        keep_s: float,
        deletes: bool,
    ) -> None:
        """``deletes``: Kafka deletes what is asked for."""
        self.touched: set[str] = set()
        self._wire = wire
        self._follower = follower
        self._topic_of = topic_of
        self._keep_s = keep_s
        self._deletes = deletes
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """From now on."""
        self._task = asyncio.create_task(self._run(), name="keeper of kafka topics")

    async def stop(self) -> None:
        """No more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            if self._deletes:
                await self.tidy()
            await self.refresh()

    async def refresh(self) -> None:
        """Write a snapshot where the newest one is old."""
        age_s = (self._follower.now_ms() - self._follower.snapshot_ms) / 1000
        if age_s > SNAPSHOT_EVERY_S:
            await self._follower.snapshot()

    async def tidy(self) -> None:
        """Delete now what may be."""
        lanes, self.touched = self.touched, set()
        for name in lanes:
            lane = self._follower.ledger.lanes.get(name)
            if lane is None:
                continue
            topic = self._topic_of(name, lane.id)
            low = lane.low
            since_ms = int(self._follower.now_ms() - self._keep_s * 1000)
            try:
                kept_from = await self._wire.offset_at(topic, since_ms) if self._keep_s else None
                before = low if kept_from is None else min(low, kept_from)
                if before > await self._wire.begin_offset(topic):
                    await self._wire.delete_before(topic, before)
                if before < low:
                    self.touched.add(name)  # what is settled, and not old yet
            except (BrokerUnavailable, KafkaError) as error:
                log.warning("settled_messages_not_deleted", topic=topic, error=str(error))
                self.touched.add(name)
