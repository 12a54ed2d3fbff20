"""Queues, subscribers and messages: the library's front door."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import orjson

from pynomaly_tasks.errors import InvalidMessage, InvalidQueue, NotFound, QueueExists, UnreadableMessage
from pynomaly_tasks.messaging.backend import Backend, Entry, Held, Measure, Outcome, Settlement
from pynomaly_tasks.messaging.codec import Codec
from pynomaly_tasks.messaging.dead_letters import DeadLetters, Reason, dead_entry_of
from pynomaly_tasks.messaging.delivery import Delivery
from pynomaly_tasks.messaging.message import Guarantee, Message
from pynomaly_tasks.messaging.names import check_name, pattern_segments
from pynomaly_tasks.messaging.options import STANDARD, Kind, QueueOptions
from pynomaly_tasks.messaging.publishing import Publisher, Route, require
from pynomaly_tasks.messaging.receipt import Receipt
from pynomaly_tasks.messaging.replaying import replay
from pynomaly_tasks.messaging.session import Session
from pynomaly_tasks.messaging.topology import (
    Topology,
    binding_record,
    dead_channel,
    dead_record,
    queue_record,
)

_MAX_BATCH = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatistics:
    """One queue, or all of them together, counted by the broker over all processes."""

    measure: Measure
    n_dead_letters: int  #: that lie there now

    @property
    def success_rate(self) -> float | None:
        """Share of what ended that was acknowledged; None while nothing has ended."""
        ended = self.measure.acknowledged + self.measure.failed + self.measure.expired
        return self.measure.acknowledged / ended if ended else None

    @property
    def mean_handled_s(self) -> float | None:
        """From handing out to acknowledgement; None while nothing was acknowledged."""
        return self.measure.handled_s / self.measure.acknowledged if self.measure.acknowledged else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The broker answered."""

    backend: str
    n_queues: int
    round_trip_s: float


class QueueManager:
    """Makes queues, sends, publishes and receives, over any backend.

    A context manager: ``async with QueueManager(backend) as manager``. Every call raises
    MessagingClosed before and after that, BrokerUnavailable where the broker gives no answer, and
    names what is wrong with its arguments before the broker sees them.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        codec: Codec | None = None,
        max_fan_out: int = 1_000,
        default_options: QueueOptions = STANDARD,
    ) -> None:
        """``max_fan_out``: most subscribers that one message is copied to."""
        self.backend = backend
        self.default_options = default_options  #: of queues that are made without any
        self._session = Session(backend, codec or Codec())
        self._publisher = Publisher(self._session, max_fan_out)
        self.dead_letters = DeadLetters(self._session)

    async def __aenter__(self) -> Self:
        await self._session.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def create_queue(self, name: str, options: QueueOptions | None = None) -> None:
        """Make it; that it is there already with the same options is fine.

        Raises QueueExists where its options are others, NotSupported where the backend lacks something
        that they ask for, InvalidQueue for a name that cannot be.
        """
        check_name(name, "queue", InvalidQueue)
        options = self.default_options if options is None else options
        if not isinstance(options, QueueOptions):
            raise InvalidQueue.of("options", f"must be QueueOptions, not {type(options).__name__}")
        self._check_capabilities(options)
        if options.dead_letters:
            await self.backend.declare(dead_record(name), b"1")
        standing = await self.backend.declare(queue_record(name), options.to_record())
        if standing != options.to_record():
            raise QueueExists(
                f"the queue {name} exists with other options: {_differences(standing, options)}"
            )

    async def list_queues(self) -> dict[str, QueueOptions]:
        """Every queue with its options, by name."""
        topology = await self._session.topology(fresh=True)
        return dict(sorted(topology.queues.items()))

    async def delete_queue(self, name: str) -> None:
        """Remove it with its messages and subscriptions; its dead letters stay. Raises NotFound."""
        topology = await self._session.topology(fresh=True)
        topology.get_queue(name)
        for queue, pattern in topology.bindings:
            if queue == name:
                await self.backend.forget(binding_record(queue, pattern))
        # From here on nothing can be put there, so nothing is lost behind the erasing.
        await self.backend.forget(queue_record(name))
        await self.backend.erase(name)

    async def purge_queue(self, name: str) -> int:
        """Remove what waits and what is delayed, not what somebody holds; how many. Raises NotFound."""
        (await self._session.topology(fresh=True)).get_queue(name)
        return await self.backend.purge(name)

    async def send(
        self,
        queue: str,
        payload: Any,
        *,
        deduplication_key: str = "",
        quorum: int | None = None,
        **fields: Any,
    ) -> Receipt:
        """Put a message into a queue; returns when the broker has it.

        ``payload`` is JSON, or a `Message` whose fields are all set; ``fields`` are those of `Message`.
        Raises InvalidMessage, NotFound, NotSupported, QueueFull. After BrokerUnavailable nobody knows
        whether it was sent: send it again under a deduplication key.
        """
        message = _message(payload, fields)
        (receipt,) = await self._publisher.send_many(queue, [message], deduplication_key, quorum)
        return receipt

    async def send_many(self, queue: str, payloads: Sequence[Any], **fields: Any) -> list[Receipt]:
        """`send` each, in order and in few round trips; ``fields`` hold for each. All are checked before any is sent."""
        messages = [_message(payload, fields) for payload in payloads]
        receipts: list[Receipt] = []
        for at in range(0, len(messages), _MAX_BATCH):
            receipts += await self._publisher.send_many(queue, messages[at : at + _MAX_BATCH], "", None)
        return receipts

    async def publish(
        self,
        topic: str,
        payload: Any,
        *,
        route: Route = Route.ALL,
        deduplication_key: str = "",
        quorum: int | None = None,
        **fields: Any,
    ) -> Receipt:
        """Send a copy to every subscriber with a matching pattern, or to the one that ``route`` chooses.

        Nobody subscribed: it is a dead letter of the queue ``""``, with the reason no_subscriber.
        """
        message = _message(payload, {**fields, "topic": topic})
        if not message.topic:
            raise InvalidMessage.of("topic", "is empty; name one, or send to a queue")
        return await self._publisher.publish(message, route, deduplication_key, quorum)

    async def subscribe(
        self, subscriber: str, pattern: str, *, options: QueueOptions | None = None, rank: int = 0
    ) -> None:
        """Have a copy of each message whose topic matches put into the queue of this name.

        Makes the queue where there is none. Processes that receive under one name share its messages.
        Several patterns of one name give one copy. Raises InvalidQueue for a bad pattern, with the
        reason; QueueExists where the queue has other options.
        """
        pattern_segments(pattern, "pattern", InvalidQueue)
        check_name(subscriber, "subscriber", InvalidQueue)
        if options is not None or subscriber not in await self.list_queues():
            await self.create_queue(subscriber, options)
        await self.backend.declare(binding_record(subscriber, pattern), orjson.dumps(rank))

    async def unsubscribe(self, subscriber: str, pattern: str) -> None:
        """End it; the queue keeps what it has. Raises NotFound."""
        if not await self.backend.forget(binding_record(subscriber, pattern)):
            raise NotFound(f"{subscriber!r:.80} has no subscription to {pattern!r:.80}")

    async def subscriptions(self) -> dict[str, list[str]]:
        """The patterns of each subscriber."""
        topology = await self._session.topology(fresh=True)
        found: dict[str, list[str]] = {}
        for queue, pattern in sorted(topology.bindings):
            found.setdefault(queue, []).append(pattern)
        return found

    async def receive(
        self, queue: str, *, max_messages: int = 1, wait_s: float = 0.0, lease_s: float | None = None
    ) -> list[Delivery]:
        """Up to ``max_messages``, in order; waits ``wait_s`` for the first. Each is ours for ``lease_s``.

        What is expired, cannot be read, or was tried too often becomes a dead letter and is not among
        them. Raises NotFound, and MessagingClosed at once when the manager is closed meanwhile. What was taken
        at the moment that the call was cancelled comes again when its lease ends.
        """
        if not 1 <= max_messages <= _MAX_BATCH:
            raise InvalidQueue.of("max_messages", f"is {max_messages}; it must be 1 to {_MAX_BATCH:,}")
        end = time.monotonic() + wait_s
        while True:
            left_s = max(0.0, end - time.monotonic())

            async def take(topology: Topology, wait_s: float = left_s) -> tuple[QueueOptions, list[Held]]:
                options = topology.get_queue(queue)
                held = await self.backend.take(
                    queue, max_entries=max_messages, lease_s=lease_s or options.lease_s, wait_s=wait_s,
                    catalog_version=topology.version,
                )  # fmt: skip
                return options, held

            async with self._session.waiting():
                options, held = await self._session.act(take)
            deliveries = await self._sort_out(held, options)
            # Where all that was taken was dead, there may be live ones behind it.
            if deliveries or not held:
                return deliveries

    async def replay(self, queue: str, *, since: datetime | int) -> int:
        """Send again, at the queue's end, what it was given since a time, or from an offset on, and is settled.

        That is what was acknowledged, and what was purged, expired or discarded; not what waits, is held or
        lies in the dead letters. Each message once, under its id, its attempts, TTL counted anew; how many.
        An offset counts the queue's messages from 0 on, as its topic has them. Raises NotFound, QueueFull,
        and NotSupported where the backend has no replay.
        """
        return await replay(self._session, self.dead_letters, queue, since)

    async def statistics(self, queue: str | None = None) -> QueueStatistics:
        """Of one queue, or of all together. Raises NotFound."""
        topology = await self._session.topology(fresh=True)
        if queue is not None:
            topology.get_queue(queue)
        queues = sorted(topology.queues) if queue is None else [queue]
        measures = [await self.backend.measure(name) for name in queues]
        dead = sorted(topology.dead) if queue is None else [queue]
        n_dead = sum([(await self.backend.measure(dead_channel(name))).depth or 0 for name in dead])
        return QueueStatistics(measure=_total(measures), n_dead_letters=n_dead)

    async def health(self) -> Health:
        """Ask the broker. Raises BrokerUnavailable."""
        started = time.monotonic()
        await self.backend.ping()
        round_trip_s = time.monotonic() - started
        return Health(
            backend=self.backend.name, n_queues=len(await self.list_queues()), round_trip_s=round_trip_s
        )

    async def _sort_out(self, held: Sequence[Held], options: QueueOptions) -> list[Delivery]:
        """Settle what must not be handed on; what is left, as deliveries."""
        settlements: list[Settlement] = []
        deliveries: list[tuple[Held, Delivery]] = []
        for each in held:
            message, reason, error = self._look_at(each, options)
            if message is not None and reason is None:
                is_settled = message.guarantee is Guarantee.FIRE_AND_FORGET
                if is_settled:
                    settlements.append(Settlement(held=each, outcome=Outcome.ACKNOWLEDGED))
                deliveries.append(
                    (each, Delivery(self._session, each, message, options, is_settled=is_settled))
                )
                continue
            then: list[Entry] = []
            if reason is not None and options.dead_letters:
                then = [dead_entry_of(each, reason, error, message)]
            outcome = Outcome.EXPIRED if reason is Reason.EXPIRED else Outcome.FAILED
            settlements.append(Settlement(held=each, outcome=outcome, then=then))
        refused = set()
        if settlements:
            answers = await self.backend.settle(settlements)
            refused = {id(s.held) for s, is_ours in zip(settlements, answers, strict=True) if not is_ours}
        return [delivery for each, delivery in deliveries if id(each) not in refused]

    def _look_at(self, held: Held, options: QueueOptions) -> tuple[Message | None, Reason | None, str]:
        """The message, and why it must not be handed on."""
        try:
            message = self._session.codec.decode(held.body, queue=held.channel)
        except UnreadableMessage as error:
            return None, Reason.UNREADABLE, str(error)
        if held.is_expired:
            return message, Reason.EXPIRED, "it waited longer than its ttl_s"
        n_tries = options.retry.max_retries + 1
        if held.n_deliveries > n_tries:
            why = f"it was handed out {n_tries} times and never settled: its consumers died, or let the lease end"
            return message, Reason.RETRIES_USED_UP, why
        return message, None, ""

    def _check_capabilities(self, options: QueueOptions) -> None:
        capabilities, name = self.backend.capabilities, self.backend.name
        asked = {
            "priority": ("kind", options.kind is Kind.PRIORITY),
            "delay": ("kind", options.kind is Kind.DELAY),
            "deduplication": ("deduplication_s", options.deduplication_s > 0),
            "ttl": ("ttl_s", options.ttl_s is not None),
            "max_size": ("max_size", options.max_size is not None),
            "dead_letters": ("dead_letters", options.dead_letters),
            "ack": ("retry.max_retries", options.retry.max_retries > 0),
        }
        for capability, (field, is_asked) in asked.items():
            if is_asked:
                require(capabilities, capability, field, name)


def _message(payload: Any, fields: Mapping[str, Any]) -> Message:
    if isinstance(payload, Message):
        if set(fields) - {"topic"}:
            raise InvalidMessage.of("payload", f"is a Message, so {', '.join(fields)} must be set in it")
        if fields.get("topic", payload.topic) != payload.topic:
            raise InvalidMessage.of(
                "topic", f"is {fields['topic']!r:.60}, and the message says {payload.topic!r:.60}"
            )
        return payload
    if not fields.keys() <= Message.__dataclass_fields__.keys():
        unknown = min(fields.keys() - Message.__dataclass_fields__.keys())
        raise InvalidMessage.of(
            unknown, f"is no field of a message; they are {', '.join(Message.__dataclass_fields__)}"
        )
    return Message(payload=payload, **fields)


def _differences(standing: bytes, options: QueueOptions) -> str:
    old, new = orjson.loads(standing), orjson.loads(options.to_record())
    return ", ".join(
        f"{name} is {old[name]} and not {new[name]}" for name in new if old.get(name) != new[name]
    )


def _total(measures: Sequence[Measure]) -> Measure:
    values: dict[str, Any] = {}
    for name in Measure.__dataclass_fields__:
        each = [getattr(measure, name) for measure in measures]
        if None in each:
            values[name] = None
        else:
            values[name] = max(each, default=0.0) if name == "oldest_age_s" else sum(each)
    return Measure(**values)
