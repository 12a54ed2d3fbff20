"""Queues on an MQTT 5 broker, such as Mosquitto 2: lanes are sessions, and what is in them is shared by a host.

A lane is a session that the broker keeps for ever, with a subscription to the lane's topic, made before
anything is sent there: so nothing is lost that nobody has received from yet. The first process that takes from
a lane hosts it: it connects as the session's client, has what lies there in memory, unacknowledged, and hands it
to itself and, asked over topics, to the others. A host that dies leaves everything in the session: the next process
that asks finds nobody listening and takes its place, in the time of one round trip.

| capability | how |
|---|---|
| ack, order, priority, delay, depth, purge | by the host, exactly, for all processes; an acknowledgement is confirmed by the broker |
| groups | the host hands each item to one of the processes that ask. Not by `$share` subscriptions: see below |
| dead_letters | a lane of their own, listed by its host |
| confirmations | retained messages that the broker lets expire |
| persistence | the broker's own: `persistence true` in Mosquitto, which writes its file at its end and every `autosave_interval` |
| ttl, deduplication, max_size | emulated, as its page says; the broker's message expiry drops without a word and is not used |
| replay | absent |

What is sent goes by quality of service 1, or 2 with ``?qos=2`` in the URL; queues never by 0, which brokers do not
keep for a session that is away. What was handed out is retained (by 0, on the host's connection), so that the next host
knows holders, leases and counts, unless the broker ended before it had read that: then it hands out again what is
held. Leases and delays go by the clocks of the processes.

Why no shared subscriptions: Mosquitto 2.0.11 gives each message to one member when it is published, whether or not
that one takes any; what a dead member had not acknowledged, and what went on being sent to it, is gone with its session
and was given to no other; and after a restart of the broker the members of sleeping sessions were not there.

What the broker must be set to: ``max_queued_messages 0`` in Mosquitto. By default it keeps 1,000 messages a session and
drops what comes after, with a good answer. The first lane on a broker is made only after a try of that.

Limits: a host has at most 65,535 items of a lane in memory, and counts no more. A host whose event loop stands still keeps
everybody waiting, until the broker misses its sign of life after about 6 s.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from pynomaly_tasks.errors import BrokerUnavailable, MessagingClosed
from pynomaly_tasks.messaging.backend import Catalog, Note
from pynomaly_tasks.messaging.backends import abilities
from pynomaly_tasks.messaging.backends.coalescing import Coalescers
from pynomaly_tasks.messaging.backends.mqtt.address import Address
from pynomaly_tasks.messaging.backends.mqtt.catalog import Writer
from pynomaly_tasks.messaging.backends.mqtt.host import DUE_AT, KEY, PRIORITY, SENT_AT
from pynomaly_tasks.messaging.backends.mqtt.hosting import LONGEST_ASK_S, Switchboard
from pynomaly_tasks.messaging.backends.mqtt.limits import check_that_it_keeps
from pynomaly_tasks.messaging.backends.mqtt.link import NO_MATCHING_SUBSCRIBERS
from pynomaly_tasks.messaging.backends.mqtt.wire import Topics
from pynomaly_tasks.messaging.plain_broker import Item, LaneCount, LaneGone, Lying, Taken, Traits

_TRIES = 10


class MqttBroker:
    """One process on an MQTT broker. ``url``: mqtt:// or mqtts://, with user and password where it asks for them."""

    name = "mqtt"
    capabilities = abilities.MQTT
    traits = Traits(
        longest_delay_s=10 * 365 * 86_400.0,
        delays_in_place=True,
        has_priorities=True,
        release_keeps_place=True,
        release_counts=False,
    )

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "pynomaly:messaging",
        connect_timeout_s: float = 2.0,
        timeout_s: float = 10.0,
    ) -> None:
        """Nothing is connected yet. ``timeout_s``: what the broker does not acknowledge by then fails."""
        self._address = Address.parse(url)
        self._topics = Topics(namespace)
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._switchboard: Switchboard | None = None
        self._writer: Writer | None = None
        self._acknowledgements = Coalescers(self._acknowledge, lambda taken: taken.lane)

    async def open(self) -> None:
        """Connect."""
        self._acknowledgements = Coalescers(self._acknowledge, lambda taken: taken.lane)
        board = Switchboard(self._address, self._topics, self._connect_timeout_s, self._timeout_s)
        try:
            await board.connected()
        except BaseException:
            await board.close()
            raise
        self._writer = Writer(self._topics, board.plain_link, self._timeout_s)
        self._switchboard = board

    async def close(self) -> None:
        """Leave what this process hosts to the others."""
        await self._acknowledgements.flush()
        board, self._switchboard = self._switchboard, None
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()
        if board is not None:
            await board.close()

    @property
    def _board(self) -> Switchboard:
        if self._switchboard is None:
            raise _closed()
        return self._switchboard

    async def ping(self) -> None:
        """One round trip."""
        link = await self._board.connected()
        await link.answer(link.send(self._topics.flush, b"", qos=1))

    async def read_catalog(self) -> Catalog:
        """All records, as of now."""
        board = self._board
        await board.catch_up()
        return Catalog(board.view.version, dict(board.view.records))

    async def declare(self, name: str, record: bytes) -> bytes:
        """Keep the record, or return the one that stands."""
        if self._writer is None:
            raise _closed()
        return await self._writer.declare(name, record)

    async def forget(self, name: str) -> bool:
        """Drop a record."""
        if self._writer is None:
            raise _closed()
        return await self._writer.forget(name)

    async def make_lane(self, lane: str) -> None:
        """Have the broker keep what is sent there, from now on and for ever."""
        board = self._board
        await board.connected()
        if lane in board.known:
            return
        async with board.lock(lane):
            for _ in range(_TRIES):
                await board.catch_up()
                if lane in board.known or await self._make(lane):
                    return
        raise BrokerUnavailable(
            f"other processes made {lane}, too, {_TRIES} times during one call; try again"
        )

    async def _make(self, lane: str) -> bool:
        """False where the session was taken by another process that makes it, too."""
        board = self._board
        await check_that_it_keeps(board)
        session = board.lane_link(lane, lambda _: None)
        try:
            await session.connect()
            await session.listen(self._topics.items(lane))
            link = await board.connected()
            await link.answer(link.send(self._topics.known(lane), b"1", qos=1, retain=True))
        except BrokerUnavailable:
            if session.is_up:
                raise
            return False
        finally:
            await session.disconnect()
        board.known.add(lane)
        return True

    async def erase_lane(self, lane: str) -> None:
        """Remove the session; whoever hosts it is disconnected by the broker."""
        board = self._board
        link = await board.connected()
        board.known.discard(lane)
        await link.answer(link.send(self._topics.known(lane), b"", qos=1, retain=True))
        await board.leave(lane)
        session = board.plain_link(board.session_id(lane), lambda _: None)
        await session.connect()
        await session.disconnect()
        for key in await board.read_retained(self._topics.held(lane, "+")):
            link.send(self._topics.held(lane, key), b"", qos=0, retain=True)

    async def append(self, items: Sequence[Item]) -> None:
        """Publish them; the broker has put each into the lane's session when it acknowledges it."""
        board = self._board
        link, now = await board.connected(), time.time()
        for item in items:
            if item.lane not in board.known:
                raise LaneGone(item.lane)
        sent = []
        for n, item in enumerate(items):
            attributes = {KEY: f"{time.time_ns():020}-{n:04}-{uuid.uuid4().hex[:12]}", SENT_AT: repr(now)}
            if item.priority:
                attributes[PRIORITY] = str(item.priority)
            if item.delay_s > 0:
                attributes[DUE_AT] = repr(now + item.delay_s)
            topic = self._topics.items(item.lane)
            sent.append(link.send(topic, item.data, qos=self._address.qos, attributes=attributes))
        codes = await asyncio.gather(*(link.answer(each) for each in sent), return_exceptions=True)
        for code in codes:
            if isinstance(code, BaseException):
                raise code
        for item, code in zip(items, codes, strict=True):
            if code == NO_MATCHING_SUBSCRIBERS:
                board.known.discard(item.lane)
        if NO_MATCHING_SUBSCRIBERS in codes:
            raise LaneGone(", ".join(sorted({item.lane for item in items} - board.known)))

    async def take(
        self, lanes: Sequence[str], *, max_items: int, lease_s: float, wait_s: float
    ) -> list[Taken]:
        """Ask each lane's host in turn; then wait for any of them."""
        end = time.monotonic() + wait_s
        while True:
            found: list[Taken] = []
            for lane in lanes:
                found += await self._take(lane, max_items - len(found), lease_s)
                if len(found) == max_items:
                    break
            left_s = end - time.monotonic()
            if found or left_s <= 0:
                return found
            await self._wait_for_any(lanes, min(left_s, LONGEST_ASK_S))

    async def take_lowest(self, lane: str, *, max_items: int, lease_s: float) -> list[Taken]:
        """From the lowest priority on."""
        return await self._take(lane, max_items, lease_s, lowest=True)

    async def _take(self, lane: str, n: int, lease_s: float, *, lowest: bool = False) -> list[Taken]:
        handed, data = await self._board.call(lane, "take", n, lease_s, lowest)
        return [
            Taken(lane=lane, token=(lane, key, fence), data=each, n_earlier=n_earlier)
            for (key, fence, n_earlier), each in zip(handed, data, strict=True)
        ]

    async def _wait_for_any(self, lanes: Sequence[str], wait_s: float) -> None:
        waits = [asyncio.ensure_future(self._board.call(lane, "wait", wait_s)) for lane in lanes]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            for each in waits:
                each.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def acknowledge(self, taken: Sequence[Taken]) -> list[bool]:
        """They are done, and the broker has read it."""
        return await self._acknowledgements.call(taken)

    async def _acknowledge(self, lane: str, taken: Sequence[Taken]) -> list[bool]:
        return await self._of_lane(lane, taken, "settle")

    async def release(self, taken: Taken) -> bool:
        """Hand it out again, in its old place."""
        lane, key, fence = _token(taken)
        answer, _ = await self._board.call(lane, "release", key, fence)
        return bool(answer)

    async def extend(self, taken: Sequence[Taken], *, lease_s: float) -> list[bool]:
        """Let the leases end later."""
        answers: dict[int, bool] = {}
        by_lane: defaultdict[str, list[int]] = defaultdict(list)
        for n, each in enumerate(taken):
            by_lane[each.lane].append(n)
        for lane, numbers in by_lane.items():
            said = await self._of_lane(lane, [taken[n] for n in numbers], "extend", lease_s)
            answers |= zip(numbers, said, strict=True)
        return [answers[n] for n in range(len(taken))]

    async def _of_lane(
        self, lane: str, taken: Sequence[Taken], do: Literal["settle", "extend"], *rest: float
    ) -> list[bool]:
        try:
            said, _ = await self._board.call(lane, do, [_token(each)[1:] for each in taken], *rest)
        except LaneGone:
            return [False] * len(taken)  # what was held went with it
        return [bool(is_ours) for is_ours in said]

    async def purge(self, lane: str) -> int:
        """Remove what nobody holds."""
        return int((await self._board.call(lane, "purge"))[0])

    async def count(self, lane: str) -> LaneCount:
        """By the lane's host."""
        (waiting, held, delayed, oldest_age_s), _ = await self._board.call(lane, "count")
        return LaneCount(waiting=waiting, held=held, delayed=delayed, oldest_age_s=oldest_age_s)

    async def browse(self, lane: str, *, after: str, limit: int) -> list[Lying]:
        """In order of the keys, which begin with the time."""
        keys, data = await self._board.call(lane, "browse", after, limit)
        return [Lying(key=key, data=each) for key, each in zip(keys, data, strict=True)]

    async def find(self, lane: str, key: str) -> Lying | None:
        """One that nobody holds."""
        was_there, data = await self._board.call(lane, "find", key)
        return Lying(key=key, data=data[0]) if was_there else None

    async def remove(self, lane: str, key: str) -> bool:
        """Remove one that nobody holds."""
        return bool((await self._board.call(lane, "remove", key))[0])

    async def add_note(self, note: Note) -> None:
        """A retained message that expires."""
        link = await self._board.connected()
        topic = self._topics.note(note.key, note.member)
        await link.answer(link.send(topic, b"1", qos=1, retain=True, expires_s=note.keep_s))

    async def read_notes(self, key: str) -> frozenset[str]:
        """The members whose messages are still there."""
        return frozenset(await self._board.read_retained(self._topics.notes(key)))


def _token(taken: Taken) -> tuple[str, str, str]:
    assert isinstance(taken.token, tuple)
    lane, key, fence = taken.token
    return lane, key, fence


def _closed() -> MessagingClosed:
    return MessagingClosed("the MQTT backend is not open; use it in `async with`, or call open()")
