"""Queues on RabbitMQ 3.10 or newer: quorum queues, publisher confirms, no plugin.

| capability | how |
|---|---|
| ack, groups, order, purge, persistence | native: a quorum queue a lane, replicated in a cluster; each item is acknowledged by itself |
| a put | returns when a majority of the servers has it on disk; no queue for it is an error, never silence |
| a dead consumer's items | come again when its connection breaks: at once when its process dies, within 15 s when it is paused or cut off |
| lease | a lease that ends in a live process is ended by that process, which gives the item back |
| priority, delay, ttl, deduplication, max_size, dead_letters | emulated above the brokers; what the server itself drops by a policy comes to the dead letters, too |
| confirmations, the catalog | emulated: a stream queue that every process reads |
| depth | emulated: the broker counts what waits, and the processes ask each other what they hold |
| replay | absent: what is settled is deleted |

Priorities are not RabbitMQ's own: only its classic queues have 256 of them, and those neither are replicated
nor count how often an item was handed out, so that one that kills its consumers would never become a dead
letter. Delays are not its own either: a queue that expires items into another can be had for fixed delays only.

Servers close the channel of an item that was held for longer than their `consumer_timeout` (30 minutes by
default). From 3.12 on the queues ask for a longer one; before, `consumer_timeout` in rabbitmq.conf must be
longer than the longest time that a message is worked on.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from aio_pika.abc import AbstractChannel
from aiormq.exceptions import ChannelLockedResource, ChannelPreconditionFailed

from pynomaly_tasks.errors import BrokerUnavailable, InvalidSettings, MessagingClosed, QueueExists
from pynomaly_tasks.messaging.backend import Catalog, Note
from pynomaly_tasks.messaging.backends.abilities import RABBITMQ
from pynomaly_tasks.messaging.backends.rabbitmq.census import Census
from pynomaly_tasks.messaging.backends.rabbitmq.desk import Desk, Hold
from pynomaly_tasks.messaging.backends.rabbitmq.dropping import drops_go_to
from pynomaly_tasks.messaging.backends.rabbitmq.link import Link, closed
from pynomaly_tasks.messaging.backends.rabbitmq.log import StreamLog
from pynomaly_tasks.messaging.backends.rabbitmq.looker import Locked, Looker
from pynomaly_tasks.messaging.backends.rabbitmq.outbox import Outbox
from pynomaly_tasks.messaging.backends.rabbitmq.records import SharedCatalog, SharedNotes
from pynomaly_tasks.messaging.emulation.lanes import split_lane
from pynomaly_tasks.messaging.plain_broker import Item, LaneCount, Lying, Taken, Traits
from pynomaly_tasks.messaging.topology import dead_channel, dead_record, is_for_dead_letters

T = TypeVar("T")

#: Servers from 4.0 on drop what was handed out 20 times; the manager counts, and keeps it. With a limit, what
#: is given back comes first again.
_DELIVERY_LIMIT = 1_000_000_000
_CONSUMER_TIMEOUT_MS = 366 * 86_400 * 1_000
_LANE: dict[str, str | int] = {
    "x-queue-type": "quorum",
    "x-delivery-limit": _DELIVERY_LIMIT,
    "x-consumer-timeout": _CONSUMER_TIMEOUT_MS,
}
_KEEP_NOTES_S = 86_400.0
_MAX_NAME_BYTES = 255
#: Channels without anything held are closed above this number.
_MAX_DESKS = 200


class RabbitBroker:
    """One process's connections: one to publish, which the server may block, and one for all else."""

    name = "rabbitmq"
    capabilities = RABBITMQ
    traits = Traits(release_keeps_place=True, release_counts=True)

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "pynomaly:messaging",
        connect_timeout_s: float = 2.0,
        timeout_s: float = 10.0,
    ) -> None:
        """``url``: amqp:// or amqps://, with a virtual host. Nothing is connected yet.

        Raises InvalidSettings for another.
        """
        try:
            is_fit = urlsplit(url).scheme in {"amqp", "amqps"} and urlsplit(url).port != 0
        except ValueError:
            is_fit = False
        if not is_fit:
            raise InvalidSettings.of(
                "messaging.url", "must be amqp:// or amqps:// with a host, such as amqp://127.0.0.1:5672/"
            )
        self._url = url
        self._namespace = namespace
        self._timeouts = {"connect_timeout_s": connect_timeout_s, "timeout_s": timeout_s}
        self._timeout_s = timeout_s
        self._is_open = False

    async def open(self) -> None:
        """Connect."""
        if self._is_open:
            return
        self._link = Link(self._url, purpose="messages taken", **self._timeouts)
        self._outward = Link(self._url, purpose="messages published", **self._timeouts)
        self._asking = asyncio.Lock()
        self._asker: AbstractChannel | None = None
        self._outbox = Outbox(self._outward)
        self._looker = Looker(self._link, self._name_of, self._ask, self._timeout_s)
        self._desks: list[Desk] = []
        self._idle: defaultdict[str, list[Desk]] = defaultdict(list)
        self._hurry = asyncio.Event()
        self._takes: set[asyncio.Task[list[Taken]]] = set()
        self._unclaimed: set[asyncio.Task[None]] = set()
        catalog = StreamLog(self._link, self._name_of("/catalog"), self._publish)
        notes = StreamLog(self._link, self._name_of("/notes"), self._publish, keep_s=_KEEP_NOTES_S)
        self._catalog = SharedCatalog(catalog, self._timeout_s)
        self._notes = SharedNotes(notes)
        self._census = Census(self._link, self._name_of("/census"), self._publish_to, self._count_held)
        await self._link.connect()
        self._is_open = True

    async def close(self) -> None:
        """Give the connections back; what is held comes again at once."""
        if not self._is_open:
            return
        await asyncio.gather(*(desk.flush() for desk in self._desks))
        self._is_open = False
        self._hurry.set()
        for desk in self._desks:
            desk.abandon()
        self._looker.abandon()
        await self._link.close()
        await self._outward.close()
        waiting = [*self._takes, *self._unclaimed]
        if waiting:
            await asyncio.wait(waiting, timeout=1.0)

    async def ping(self) -> None:
        """One round trip."""
        await self._ask(lambda channel: channel.set_qos(prefetch_count=0))

    async def read_catalog(self) -> Catalog:
        """All records."""
        self._check_open()
        return await self._catalog.read()

    async def declare(self, name: str, record: bytes) -> bytes:
        """Keep the record, or return the one that stands."""
        self._check_open()
        return await self._catalog.declare(name, record)

    async def forget(self, name: str) -> bool:
        """Drop a record."""
        self._check_open()
        return await self._catalog.forget(name)

    async def make_lane(self, lane: str) -> None:
        """A quorum queue; see `dropping` for what the server itself takes out of it."""
        arguments = _LANE
        channel, _ = split_lane(lane)
        if not is_for_dead_letters(channel) and dead_record(channel) in (await self.read_catalog()).records:
            dead = dead_channel(channel)
            await self._declare_queue(dead, _LANE)  # first: it is looked for when something is dropped
            arguments = _LANE | drops_go_to(self._name_of(dead))
        await self._declare_queue(lane, arguments)

    async def _declare_queue(self, lane: str, arguments: Mapping[str, str | int]) -> None:
        name = self._name_of(lane)

        async def declare(channel: AbstractChannel) -> None:
            try:
                await channel.declare_queue(name, durable=True, arguments={**arguments})
            except ChannelPreconditionFailed as error:
                raise QueueExists(
                    f"RabbitMQ has a queue {name} that was made otherwise, by another program or an older version "
                    f"({error}): have its messages taken, then remove it by `rabbitmqctl delete_queue {name}`"
                ) from error

        await self._ask(declare)

    async def erase_lane(self, lane: str) -> None:
        """Delete the queue."""
        await self._ask(lambda channel: channel.queue_delete(self._name_of(lane)))
        for desk in self._desks:
            desk.forget(lane)

    async def append(self, items: Sequence[Item]) -> None:
        """Publish them, and wait for every confirmation."""
        self._check_open()
        await self._outbox.publish([("", self._name_of(item.lane), item.data) for item in items])

    async def take(
        self, lanes: Sequence[str], *, max_items: int, lease_s: float, wait_s: float
    ) -> list[Taken]:
        """Up to ``max_items``, those of an earlier lane first."""
        self._check_open()
        # A task of its own: a call to the server that is broken off closes its channel, and what is held there
        # would come again.
        hurry = self._hurry if not wait_s else asyncio.Event()
        task = asyncio.create_task(self._take(lanes, max_items, lease_s, wait_s, hurry))
        self._takes.add(task)
        task.add_done_callback(self._takes.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            hurry.set()
            task.add_done_callback(self._give_back_unclaimed)
            raise

    async def _take(
        self, lanes: Sequence[str], max_items: int, lease_s: float, wait_s: float, hurry: asyncio.Event
    ) -> list[Taken]:
        await self._census.join()
        # What a desk holds comes loose when a lane is not there, so each channel has its own desks.
        key = lanes[0].partition("!")[0]
        desk = await self._find_desk(key)
        try:
            return await desk.take(lanes, max_items=max_items, lease_s=lease_s, wait_s=wait_s, hurry=hurry)
        finally:
            if self._is_open and desk.is_open:
                self._idle[key].append(desk)

    async def _find_desk(self, key: str) -> Desk:
        idle = self._idle[key]
        while idle:
            desk = idle.pop()
            if desk.is_open:
                return desk
        self._desks = [desk for desk in self._desks if desk.is_open]
        if len(self._desks) >= _MAX_DESKS:
            await self._close_some()
        desk = await Desk.make(self._link, self._name_of)
        self._desks.append(desk)
        return desk

    async def _close_some(self) -> None:
        for key, idle in list(self._idle.items()):
            for desk in [desk for desk in idle if not desk.held]:
                idle.remove(desk)
                self._desks.remove(desk)
                await desk.close()
            if not idle:
                del self._idle[key]

    def _give_back_unclaimed(self, task: asyncio.Task[list[Taken]]) -> None:
        if task.cancelled() or task.exception() is not None or not self._is_open:
            return
        giving = asyncio.create_task(self._give_back(task.result()))
        self._unclaimed.add(giving)
        giving.add_done_callback(self._unclaimed.discard)

    async def _give_back(self, taken: Sequence[Taken]) -> None:
        # A connection that broke has given it back.
        with suppress(BrokerUnavailable, MessagingClosed):
            for each in taken:
                await self.release(each)

    async def acknowledge(self, taken: Sequence[Taken]) -> list[bool]:
        """They are done, when the server has heard so."""
        self._check_open()
        holds = [_hold(each) for each in taken]
        by_desk: dict[Desk, list[Hold]] = {}
        for hold in holds:
            by_desk.setdefault(hold.desk, []).append(hold)
        answers: dict[Hold, bool] = {}
        for desk, mine in by_desk.items():
            answers |= zip(mine, await desk.acknowledge(mine), strict=True)
        return [answers[hold] for hold in holds]

    async def release(self, taken: Taken) -> bool:
        """Hand it out again now, before what was never held."""
        self._check_open()
        hold = _hold(taken)
        return await hold.desk.release(hold)

    async def extend(self, taken: Sequence[Taken], *, lease_s: float) -> list[bool]:
        """Let the leases end later: in this process, for the server knows none."""
        self._check_open()
        return [hold.desk.extend(hold, lease_s) for hold in map(_hold, taken)]

    async def purge(self, lane: str) -> int:
        """Remove what waits."""
        answer = await self._ask(lambda channel: _purge(channel, self._name_of(lane)))
        return int(answer)

    async def count(self, lane: str) -> LaneCount:
        """What waits, as the server says, and what is held, as each process says."""
        waiting = await self._looker.n_waiting(lane)
        return LaneCount(waiting=waiting, held=await self._census.held(lane))

    def _count_held(self, lane: str) -> int:
        return sum(hold.lane == lane for desk in self._desks if desk.is_open for hold in desk.held.values())

    async def browse(self, lane: str, *, after: str, limit: int) -> list[Lying]:
        """By age. Everything in the lane is taken for a moment, and given back."""
        self._check_open()
        return await self._looker.browse(lane, after=after, limit=limit)

    async def find(self, lane: str, key: str) -> Lying | None:
        """As `browse`, up to the item."""
        self._check_open()
        return await self._looker.find(lane, key)

    async def remove(self, lane: str, key: str) -> bool:
        """As `find`, and acknowledged."""
        self._check_open()
        return await self._looker.remove(lane, key)

    async def add_note(self, note: Note) -> None:
        """Keep it for a day."""
        self._check_open()
        await self._notes.add(note)

    async def read_notes(self, key: str) -> frozenset[str]:
        """The members noted under the key."""
        self._check_open()
        return await self._notes.read(key)

    async def _ask(self, question: Callable[[AbstractChannel], Coroutine[Any, Any, T]]) -> T:
        """On a channel that nothing is held on: one that the server refuses is closed by it."""
        self._check_open()
        async with self._asking:
            if self._asker is None or self._asker.is_closed:
                self._asker = await self._link.channel()
            async with self._link.answered():
                try:
                    return await question(self._asker)
                except ChannelLockedResource as error:
                    raise Locked from error

    async def _publish(self, name: str, data: bytes) -> None:
        await self._outbox.publish([("", name, data)])

    async def _publish_to(self, exchange: str, key: str, data: bytes) -> None:
        await self._outbox.publish([(exchange, key, data)], is_lasting=False)

    def _name_of(self, lane: str) -> str:
        """The server's name of a lane. It takes 255 bytes at most, and the client no exclamation mark."""
        name = f"{self._namespace}/{lane.replace('!', '@')}"
        if len(name.encode()) > _MAX_NAME_BYTES:
            name = f"{name[:150]}@@{hashlib.sha256(name.encode()).hexdigest()}"
        return name

    def _check_open(self) -> None:
        if not self._is_open:
            raise closed()


def _hold(taken: Taken) -> Hold:
    return cast("Hold", taken.token)


async def _purge(channel: AbstractChannel, name: str) -> int:
    underlay = await channel.get_underlay_channel()
    return (await underlay.queue_purge(name)).message_count or 0
