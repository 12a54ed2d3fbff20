"""The records of the catalog: retained messages that every process sees, and one writer at a time.

MQTT has no "write unless it is there". But one client id has one connection: whoever connects under the
writer's takes it from the one before, whose next write the broker does not read any more. So a writer
that has read everything since it connected knows that nobody else wrote.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable

from pynomaly_tasks.errors import BrokerUnavailable
from pynomaly_tasks.messaging.backends.mqtt.link import Arrival, Link
from pynomaly_tasks.messaging.backends.mqtt.wire import Topics, last_name

#: Others may take the writer's connection; after this many times it counts as no answer.
_TRIES = 30

#: Makes a link, not connected: client id, and what is called with each message.
LinkMaker = Callable[[str, Callable[[Arrival], None]], Link]


class View:
    """Retained messages under some topics, as one connection has seen them."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self.version = 1
        self._marks: dict[bytes, asyncio.Future[None]] = {}

    def changed(self, topic: str, payload: bytes) -> None:
        """A record was kept, or dropped."""
        name = last_name(topic)
        if self.records.get(name, b"") == payload:
            return
        self.version += 1
        if payload:
            self.records[name] = payload
        else:
            del self.records[name]

    def marked(self, payload: bytes) -> None:
        """A mark came back."""
        if (mark := self._marks.pop(payload, None)) is not None and not mark.done():
            mark.set_result(None)

    async def catch_up(self, link: Link, to: str, timeout_s: float) -> None:
        """Return when all that the broker had before has arrived: what we send to ourselves comes behind it."""
        payload = uuid.uuid4().bytes
        mark = self._marks[payload] = asyncio.get_running_loop().create_future()
        try:
            await link.answer(link.send(to, payload, qos=1))
            async with asyncio.timeout(timeout_s):
                await asyncio.wait([mark, link.lost], return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise BrokerUnavailable("MQTT broker did not hand over a message in time") from None
        finally:
            self._marks.pop(payload, None)
        if not mark.done():
            raise BrokerUnavailable("MQTT connection was lost")


class Writer:
    """Declares and forgets records, each in one step for all processes."""

    def __init__(self, topics: Topics, make_link: LinkMaker, timeout_s: float) -> None:
        self._topics = topics
        self._make_link = make_link
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()
        self._link: Link | None = None
        self._view = View()

    async def declare(self, name: str, record: bytes) -> bytes:
        """The record that stands."""
        async with self._lock:
            for _ in range(_TRIES):
                link = await self._connected()
                if (standing := self._view.records.get(name)) is not None:
                    return standing
                if await self._write(link, name, record):
                    return record
        raise _too_many()

    async def forget(self, name: str) -> bool:
        """Whether there was one."""
        was_there = False
        async with self._lock:
            for _ in range(_TRIES):
                link = await self._connected()
                if name not in self._view.records:
                    return was_there
                was_there = True
                if await self._write(link, name, b""):
                    return True
        raise _too_many()

    async def close(self) -> None:
        """Leave it to others."""
        link, self._link = self._link, None
        if link is not None:
            await link.disconnect()

    async def _write(self, link: Link, name: str, record: bytes) -> bool:
        """False when the connection was taken meanwhile: nobody knows whether it was written."""
        topic = self._topics.record(name)
        try:
            await link.answer(link.send(topic, record, qos=1, retain=True))
        except BrokerUnavailable:
            if link.is_up:
                raise
            await _pause(0)
            return False
        self._view.changed(topic, record)
        return True

    async def _connected(self) -> Link:
        for n in range(_TRIES):
            if self._link is not None and self._link.is_up:
                return self._link
            view = self._view = View()
            me = self._topics.answers(f"writer-{uuid.uuid4().hex}")
            arrived: list[Link] = []

            def on_message(
                message: Arrival, view: View = view, me: str = me, own: list[Link] = arrived
            ) -> None:
                if message.topic == me:
                    view.marked(message.payload)
                else:
                    view.changed(message.topic, message.payload)
                if message.qos:
                    own[0].acknowledge(message.mid)

            link = self._make_link(f"{self._topics.namespace}/writer", on_message)
            arrived.append(link)
            await link.connect()
            try:
                await link.listen(me)
                await link.listen(self._topics.records, no_local=True)
                await view.catch_up(link, me, self._timeout_s)
            except BrokerUnavailable:
                if link.is_up:
                    await link.disconnect()
                    raise
                await _pause(n)
                continue
            self._link = link
            return link
        raise _too_many()


async def _pause(n_tries: int) -> None:
    """Spread those that contend for the writer's connection."""
    await asyncio.sleep(random.uniform(0.0, 0.02 * (n_tries + 1)))


def _too_many() -> BrokerUnavailable:
    return BrokerUnavailable(f"other processes changed the catalog {_TRIES} times during one call; try again")
