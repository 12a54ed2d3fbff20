"""From a message to entries in queues: routing, deduplication, full queues, topics without subscribers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from enum import Enum

from pynomaly_tasks.errors import InvalidMessage, QueueFull
from pynomaly_tasks.messaging.backend import CatalogStale, Entry, Outcome, Put, Settlement
from pynomaly_tasks.messaging.backends import capability_table
from pynomaly_tasks.messaging.capabilities import Capabilities, Support
from pynomaly_tasks.messaging.codec import checksum
from pynomaly_tasks.messaging.dead_letters import Reason, dead_entry, dead_entry_of
from pynomaly_tasks.messaging.message import Guarantee, Message
from pynomaly_tasks.messaging.options import Kind, Overflow, QueueOptions
from pynomaly_tasks.messaging.receipt import Receipt, needed
from pynomaly_tasks.messaging.session import Session
from pynomaly_tasks.messaging.topology import UNROUTED, Topology, dead_record

#: Other senders fill the room that was made; after this many turns the queue counts as full.
_TRIES_FOR_ROOM = 20
#: Topics whose turns are remembered; past that, each begins with its first subscriber again.
_MAX_TURNS = 10_000


class Route(Enum):
    """Which of the matching subscribers get a published message."""

    ALL = "all"
    ROUND_ROBIN = "round_robin"  #: one, in turn, as this process counts
    LEAST_LOADED = "least_loaded"  #: the one with the fewest unsettled messages
    PRIORITY = "priority"  #: the one that subscribed with the highest rank; by name within equals


class Publisher:
    """Puts messages where they belong; see `QueueManager` for what each call promises."""

    def __init__(self, session: Session, max_fan_out: int) -> None:
        self._session = session
        self._max_fan_out = max_fan_out
        self._turns: Counter[str] = Counter()

    async def send_many(
        self, queue: str, messages: list[Message], deduplication_key: str, quorum: int | None
    ) -> list[Receipt]:
        """To one queue, in order; raises QueueFull after those that found room were sent."""
        n_needed = [needed(message, quorum, 1) for message in messages]
        canonicals = [self._session.codec.canonical(message.payload) for message in messages]
        bodies = [
            self._session.codec.encode(message, canonical)
            for message, canonical in zip(messages, canonicals, strict=True)
        ]

        async def put(topology: Topology) -> tuple[QueueOptions, list[Entry], list[Put]]:
            options = topology.get_queue(queue)
            entries = []
            for message, canonical, body in zip(messages, canonicals, bodies, strict=True):
                self._check(message, options, queue)
                entries.append(self._entry(queue, options, message, canonical, body, deduplication_key))
            puts = await self._session.backend.put(entries, catalog_version=topology.version)
            return options, entries, puts

        options, entries, puts = await self._session.act(put)
        for at, outcome in enumerate(puts):
            if outcome is Put.FULL and options.overflow is Overflow.DROP_OLDEST:
                puts[at] = await self._make_room(entries[at])
        if Put.FULL in puts:
            n_full = puts.count(Put.FULL)
            raise QueueFull(
                f"the queue {queue} holds its max_size of {options.max_size:,} messages; "
                f"{n_full} of {len(messages)} were not sent: try again later, or make a queue with more room"
            )
        return [
            Receipt(
                message_id=message.id,
                queues=() if outcome is Put.DUPLICATE else (queue,),
                duplicates=(queue,) if outcome is Put.DUPLICATE else (),
                n_needed=n,
                _session=self._session,
            )
            for message, outcome, n in zip(messages, puts, n_needed, strict=True)
        ]

    async def publish(
        self, message: Message, route: Route, deduplication_key: str, quorum: int | None
    ) -> Receipt:
        """To the subscribers of its topic, or among the dead letters of topics without any."""
        canonical = self._session.codec.canonical(message.payload)
        body = self._session.codec.encode(message, canonical)

        async def put(topology: Topology) -> tuple[list[Entry], list[Put], int]:
            queues = await self._choose(topology, message.topic, route)
            if not queues and UNROUTED not in topology.dead:
                # Before, not after: the letter's place must be known when there is a letter in it.
                await self._session.backend.declare(dead_record(UNROUTED), b"1")
                raise CatalogStale
            n_needed = needed(message, quorum, len(queues))
            entries = []
            for queue in queues:
                options = topology.get_queue(queue)
                self._check(message, None, queue)
                entries.append(self._entry(queue, options, message, canonical, body, deduplication_key))
            entries = entries or [self._unrouted(message, body)]
            return (
                entries,
                await self._session.backend.put(entries, catalog_version=topology.version),
                n_needed,
            )

        entries, puts, n_needed = await self._session.act(put)
        if route is Route.ROUND_ROBIN:
            if len(self._turns) > _MAX_TURNS:
                self._turns.clear()
            self._turns[message.topic] += 1
        topology = await self._session.topology()
        for at, (entry, outcome) in enumerate(zip(entries, puts, strict=True)):
            if outcome is Put.FULL:
                puts[at] = await self._when_full(topology, entry, message)
        by_outcome = {
            outcome: tuple(
                entry.channel
                for entry, put_outcome in zip(entries, puts, strict=True)
                if put_outcome is outcome and entry.channel != UNROUTED
            )
            for outcome in Put
        }
        if by_outcome[Put.FULL] and not by_outcome[Put.DONE] and not by_outcome[Put.DUPLICATE]:
            raise QueueFull(
                f"every subscriber of {message.topic!r:.80} is full: {', '.join(by_outcome[Put.FULL])}"
            )
        return Receipt(
            message_id=message.id,
            queues=by_outcome[Put.DONE],
            duplicates=by_outcome[Put.DUPLICATE],
            full=by_outcome[Put.FULL],
            n_needed=n_needed,
            _session=self._session,
        )

    async def _choose(self, topology: Topology, topic: str, route: Route) -> list[str]:
        queues = topology.matching(topic)
        if len(queues) > self._max_fan_out and route is Route.ALL:
            raise InvalidMessage.of(
                "topic",
                f"{len(queues)} subscribers match {topic!r:.80}, and max_fan_out is {self._max_fan_out}; "
                "raise it, or publish with another route",
            )
        if route is Route.ALL or not queues:
            return queues
        if route is Route.ROUND_ROBIN:
            return [queues[self._turns[topic] % len(queues)]]
        if route is Route.PRIORITY:
            return [min(queues, key=lambda queue: (-topology.rank(queue), queue))]
        require(self._session.backend.capabilities, "depth", "route", self._session.backend.name)
        depths = {queue: (await self._session.backend.measure(queue)).depth or 0 for queue in queues}
        return [min(queues, key=lambda queue: (depths[queue], queue))]

    def _check(self, message: Message, options: QueueOptions | None, queue: str) -> None:
        """Refuse what the backend, or a queue that was named, cannot do; nothing is ignored."""
        capabilities, name = self._session.backend.capabilities, self._session.backend.name
        if message.guarantee in (Guarantee.BROADCAST, Guarantee.QUORUM):
            require(capabilities, "confirmations", "guarantee", name)
        if message.delay_s:
            require(capabilities, "delay", "delay_s", name)
        if message.ttl_s is not None:
            require(capabilities, "ttl", "ttl_s", name)
        if options is not None and message.priority and options.kind is not Kind.PRIORITY:
            raise InvalidMessage.of(
                "priority",
                f"is {message.priority}, and the queue {queue} is of the kind {options.kind.value}, which has no "
                "priorities; make one of the kind priority, or leave the priority out",
            )

    def _entry(
        self, queue: str, options: QueueOptions, message: Message, canonical: bytes, body: bytes, key: str
    ) -> Entry:
        entry = self._session.entry(queue, options, message, body)
        if not options.deduplication_s:
            if key:
                raise InvalidMessage.of(
                    "deduplication_key", f"was given, and the queue {queue} was made without deduplication_s"
                )
            return entry
        # Two kinds of keys that cannot meet: a caller's own, and the content's.
        mark = f"k{checksum(key.encode())}" if key else f"c{checksum(canonical)}"
        return replace(entry, deduplication_key=mark, deduplication_s=options.deduplication_s)

    def _unrouted(self, message: Message, body: bytes) -> Entry:
        return dead_entry(
            queue=UNROUTED,
            topic=message.topic,
            reason=Reason.NO_SUBSCRIBER,
            error=f"nobody subscribed to {message.topic}",
            message_id=message.id,
            n_attempts=0,
            priority=message.priority,
            raw=body,
        )

    async def _when_full(self, topology: Topology, entry: Entry, message: Message) -> Put:
        options = topology.get_queue(entry.channel)
        if options.overflow is Overflow.DROP_OLDEST:
            return await self._make_room(entry)
        if options.dead_letters:
            letter = dead_entry(
                queue=entry.channel,
                topic=message.topic,
                reason=Reason.OVERFLOW,
                error=f"the queue held its max_size of {options.max_size} messages",
                message_id=message.id,
                n_attempts=0,
                priority=message.priority,
                raw=entry.body,
            )
            await self._session.act(
                lambda newest: self._session.backend.put([letter], catalog_version=newest.version)
            )
        return Put.FULL

    async def _make_room(self, entry: Entry) -> Put:
        """Turn the oldest that waits into a dead letter and put the entry, until there is room for it."""
        backend = self._session.backend

        async def turn(topology: Topology) -> Put:
            options = topology.get_queue(entry.channel)
            (outcome,) = await backend.put([entry], catalog_version=topology.version)
            if outcome is not Put.FULL:
                return outcome
            for held in await backend.take(
                entry.channel, max_entries=1, lease_s=options.lease_s, wait_s=0.0,
                catalog_version=topology.version, lowest=True,
            ):  # fmt: skip
                error = f"the queue held its max_size of {options.max_size} messages, and this was the oldest"
                then = [dead_entry_of(held, Reason.OVERFLOW, error, None)] if options.dead_letters else []
                await backend.settle([Settlement(held=held, outcome=Outcome.DROPPED, then=then)])
            return Put.FULL

        for _ in range(_TRIES_FOR_ROOM):
            if (outcome := await self._session.act(turn)) is not Put.FULL:
                return outcome
        return Put.FULL


def require(capabilities: Capabilities, capability: str, field: str, backend: str) -> None:
    """Raise NotSupported, naming the backends that have it, when the capability is absent."""
    if getattr(capabilities, capability) is Support.ABSENT:
        capabilities.require(capability, field, backend, capability_table())
