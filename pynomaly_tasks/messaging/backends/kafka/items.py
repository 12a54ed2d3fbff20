"""Items by their offset: read a piece at a time, kept for a while, and watched for new ones."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from aiokafka.errors import OffsetOutOfRangeError

from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.kafka_client.fetching import Fetched
from pynomaly_tasks.messaging.backends.kafka.wire import KafkaWire, TopicGone
from pynomaly_tasks.messaging.plain_broker import LaneGone

_FETCH_BYTES = 524_288
_KEEP_BYTES = 16 * 1_048_576
_WATCH_BYTES = 65_536
_WATCH_S = 0.5
#: Nobody waited for this long: the connection is given back.
_IDLE_S = 5.0
_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Record:
    """One item as it lies in its topic."""

    offset: int
    timestamp_ms: int
    data: bytes


class Items:
    """The items of every lane, as far as this process has looked."""

    def __init__(self, wire: KafkaWire, on_more: Callable[[], None]) -> None:
        """``on_more`` is called when a topic that is watched got longer."""
        self._wire = wire
        self._on_more = on_more
        self._ends: dict[str, int] = {}
        self._kept: OrderedDict[tuple[str, int], Record] = OrderedDict()
        self._kept_bytes = 0
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._wanted_at: dict[str, float] = {}

    async def stop(self) -> None:
        """Watch nothing."""
        tasks, self._watchers = list(self._watchers.values()), {}
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    def end(self, topic: str) -> int:
        """The offset after the newest item that is known of."""
        return self._ends.get(topic, 0)

    def note_end(self, topic: str, end: int) -> None:
        """There is something before this offset."""
        if end > self.end(topic):
            self._ends[topic] = end

    async def look(self, topic: str) -> None:
        """Ask how long it is now."""
        try:
            self.note_end(topic, await self._wire.end_offset(topic))
        except TopicGone as error:
            raise LaneGone(f"Kafka has no topic {topic}") from error

    def forget(self, topic: str) -> None:
        """It is gone."""
        self._ends.pop(topic, None)
        self._wanted_at.pop(topic, None)
        for key in [key for key in self._kept if key[0] == topic]:
            self._drop(key)
        task = self._watchers.pop(topic, None)
        if task is not None:
            task.cancel()

    async def read(self, topic: str, offsets: Sequence[int]) -> dict[int, Record]:
        """Those of the offsets that the log still has; the others are not in it any more. Raises LaneGone."""
        try:
            return await self._read(topic, offsets)
        except TopicGone as error:
            raise LaneGone(f"Kafka has no topic {topic}") from error

    async def _read(self, topic: str, offsets: Sequence[int]) -> dict[int, Record]:
        found: dict[int, Record] = {}
        missing = sorted(offsets)
        while missing:
            at = missing[0]
            kept = self._kept.get((topic, at))
            if kept is not None:
                found[at] = kept
                missing.pop(0)
                continue
            try:
                fetched = await self._wire.fetch(topic, at, max_bytes=_FETCH_BYTES)
            except OffsetOutOfRangeError:
                begin = await self._wire.begin_offset(topic)
                if begin <= at:
                    break  # it was never written
                missing = [offset for offset in missing if offset >= begin]
                continue
            records = {record.offset: record for record in self._keep(topic, fetched)}
            found |= {offset: records[offset] for offset in missing if offset in records}
            if fetched.next_offset <= at:
                break
            missing = [offset for offset in missing if offset >= fetched.next_offset]
        return found

    def drop(self, topic: str, offsets: Sequence[int]) -> None:
        """Nobody will read them again here."""
        for offset in offsets:
            self._drop((topic, offset))

    def watch(self, topic: str) -> None:
        """Notice it when the topic gets longer; for a few seconds from now."""
        self._wanted_at[topic] = time.monotonic()
        task = self._watchers.get(topic)
        if task is None or task.done():
            self._watchers[topic] = asyncio.create_task(self._watch(topic), name=f"watch {topic}")

    async def _watch(self, topic: str) -> None:
        while time.monotonic() - self._wanted_at.get(topic, 0.0) < _IDLE_S:
            known = self.end(topic)
            try:
                fetched = await self._wire.fetch(
                    topic, known, max_bytes=_WATCH_BYTES, wait_s=_WATCH_S, group=f"watch {topic}"
                )
            except TopicGone:
                return
            except OffsetOutOfRangeError:
                with suppress(BrokerUnavailable, LaneGone):
                    await self.look(topic)
                continue
            except BrokerUnavailable:
                await asyncio.sleep(_PAUSE_S)  # whoever waits hears it from its own questions
                continue
            self._keep(topic, fetched)
            if self.end(topic) > known:
                self._on_more()

    def _keep(self, topic: str, fetched: Fetched) -> list[Record]:
        self.note_end(topic, fetched.end)
        records = [
            Record(each.offset, each.timestamp, each.value if each.value is not None else b"")
            for each in fetched.records
        ]
        for record in records:
            key = (topic, record.offset)
            if key not in self._kept:
                self._kept[key] = record
                self._kept_bytes += len(record.data)
        while self._kept_bytes > _KEEP_BYTES:
            self._drop(next(iter(self._kept)))
        return records

    def _drop(self, key: tuple[str, int]) -> None:
        record = self._kept.pop(key, None)
        if record is not None:
            self._kept_bytes -= len(record.data)
