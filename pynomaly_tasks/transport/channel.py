"""kombu's Redis channel with another way to take, to wait and to publish."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from queue import Empty
from time import monotonic
from typing import Any

import redis
from kombu.transport import redis as kombu_redis
from kombu.utils.scheduling import priority_cycle, round_robin_cycle

from pynomaly_tasks.transport import arguments, guard, scripts
from pynomaly_tasks.transport.burying import bury
from pynomaly_tasks.transport.ledger import Ledger
from pynomaly_tasks.transport.message import Message
from pynomaly_tasks.transport.publisher import Publishing
from pynomaly_tasks.transport.qos import QoS

#: Most messages that one step takes, where the prefetch allows more.
MAX_TAKEN = 100
_MAX_ACKS = 1_000  #: that one step takes along
#: A prefetch of so many is taken in parts, where the channel asks ahead.
_AHEAD_FROM, _PARTS = 32, 4
#: A server that says one of these will do better later: reconnecting is the way out.
_PASSING = ("READONLY", "MISCONF", "LOADING", "MASTERDOWN", "BUSY", "OOM", "UNBLOCKED")
_CLOSE_TIMEOUT_S = 2.0
#: Deliveries in a row. In the solo pool the tasks run in them, and acknowledgements, remote control and
#: the end of the worker wait for the event loop.
_DELIVERING_S = 0.005
_ANSWER_S = 0.02  #: that an answer is waited for before the event loop goes on

OPTIONS = ("lease_s", "wait_s", "max_message_bytes", "max_body_bytes", "accept_content_types", "on_malformed",
           "keep_rejected")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A step that was asked for and not answered yet."""

    asked_at: float
    first_number: int
    limit: int
    queues: tuple[str, ...]
    lists: tuple[str, ...]  #: best priority first, in each the queues in turn
    acks: tuple[str, ...]  #: go along


class Reserving(Publishing):
    """The overrides; to be put before kombu's channel, plain or Sentinel."""

    QoS = QoS
    Message = Message

    #: How long a message stays with a consumer that was not heard of.
    lease_s = 20.0
    #: How long an idle worker waits for a wake token before it looks itself.
    wait_s = 0.3
    max_message_bytes = 64_000_000
    max_body_bytes = 64_000_000
    #: Content types that are delivered; None: all that kombu can decode.
    accept_content_types: Any = None
    #: Called with (bytes, queue, reason) for each message that cannot be delivered; or its dotted name.
    #: If it returns True, it has kept the message, and the queue's dead letters in Redis do not.
    on_malformed: Callable[[bytes, str, str], bool | None] | str | None = None

    #: What is rejected and not requeued goes to the dead letters; kombu drops it.
    keep_rejected = True

    #: A message that came alone, to a channel that waited for it.
    is_delivering_one = False
    #: Whether to ask for the next messages before these are delivered, of which none may run meanwhile.
    asks_ahead = False

    _question: Question | None = None
    _waits = False
    _awaits_token = False
    _shared_client: Any = None
    _shared_pool: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._arrived: deque[tuple[str, str, bytes]] = deque()
        self._no_ack_queues: set[str] = set()
        self._unseen_scripts = False
        super().__init__(*args, **kwargs)
        # kombu takes this for "at most once"; here acknowledging costs next to nothing.
        self.QoS = QoS

    @cached_property
    def ledger(self: Any) -> Ledger:
        """Where this transport's messages are kept."""
        return self.connection.ledger_of(self)  # type: ignore[no-any-return]

    @cached_property
    def limits(self) -> guard.Limits:
        """What the guard lets through."""
        types = self.accept_content_types
        return guard.Limits(
            message_bytes=self.max_message_bytes,
            body_bytes=self.max_body_bytes,
            content_types=None if types is None else frozenset(types),
        )

    # ---- one client for all

    @contextmanager
    def conn_or_acquire(self: Any, client: Any = None) -> Iterator[Any]:
        """The client given, or the channel's one; kombu makes a new one on each call."""
        if client is None:
            if self._shared_client is None or self._shared_pool is not self.pool:
                # After a fork, or a close, there is another pool.
                self._shared_client, self._shared_pool = self._create_client(), self.pool
            client = self._shared_client
        yield client

    # ---- taking

    def _credit(self: Any) -> int:
        if "can_consume" in self.qos.__dict__:
            return 1  # Celery's worker_disable_prefetch looks before each message
        if not isinstance(self._queue_cycle, round_robin_cycle):
            return 1  # a strategy of somebody else's may want to turn after each message
        credit = self.qos.can_consume_max_estimate()
        if credit is None:
            # No prefetch limit. A worker takes what comes; a loop of drain_events may end after one.
            credit = MAX_TAKEN if self.connection.has_event_loop else 1
        free = max(int(min(credit, MAX_TAKEN)) - len(self._arrived), 0)
        prefetch: int = self.qos.prefetch_count
        if self.asks_ahead and prefetch >= _AHEAD_FROM:
            # While one part runs and another is delivered, the server looks for the third.
            return min(free, prefetch // _PARTS)
        return free

    def _take_acks(self: Any) -> tuple[str, ...]:
        return tuple(self.ledger.take_acknowledgements(_MAX_ACKS))

    def _ask(
        self: Any, queues: list[str], limit: int, acks: tuple[str, ...]
    ) -> tuple[Question, tuple[Any, ...]]:
        lists = tuple(
            self._key(self._q_for_pri(q, priority)) for priority in self.priority_steps for q in queues
        )
        question = Question(
            asked_at=monotonic(),
            first_number=self.ledger.numbers(limit),
            limit=limit,
            queues=tuple(queues),
            lists=lists,
            acks=acks,
        )
        keys = [self.ledger.keys.unacked, self.ledger.keys.index, *map(self._wake_key, queues), *lists]
        in_order = isinstance(self._queue_cycle, priority_cycle)
        args = [self.ledger.prefix, question.first_number, limit, len(queues), int(in_order),
                *map(_record_end, queues), *question.acks]  # fmt: skip
        command = scripts.RESERVE.command(keys, args, with_source=self._unseen_scripts)
        return question, command

    def _take(self: Any, question: Question, answer: list[Any]) -> int:
        self._unseen_scripts = False
        tags = []
        for n, (index, raw) in enumerate(zip(answer[::2], answer[1::2], strict=True)):
            tag = self.ledger.tag(question.first_number + n, question.lists[index])
            queue = question.queues[index % len(question.queues)]
            self._queue_cycle.rotate(queue)
            self._arrived.append((tag, queue, raw))
            tags.append(tag)
        if tags:
            self.ledger.hold(tags)
            if monotonic() - question.asked_at > self.ledger.lease_s / 2:
                # This process stood still: others may have been given these by now.
                lost = set(self.ledger.renew())
                self._arrived = deque(arrival for arrival in self._arrived if arrival[0] not in lost)
        return len(tags)

    def _unanswered(self: Any, question: Question) -> None:
        """Nobody will read the answer: whatever was taken goes back, what went along goes again."""
        for tag in question.acks:
            self.ledger.acknowledge(tag)
        for n in range(question.limit):
            for list_key in question.lists:
                self.ledger.give_back(self.ledger.tag(question.first_number + n, list_key))

    def _brpop_start(self: Any, timeout: float | None = None) -> None:
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        self.ledger.start()  # an idle worker gives back what dead ones held
        connection = self.client.connection
        commands: list[tuple[Any, ...]] = []
        # What has arrived already waits for no token; the answer, be it empty, is when its turn comes.
        self._awaits_token = self._waits and not self._arrived
        if self._awaits_token:
            commands.append(("BRPOP", *map(self._wake_key, queues), self.wait_s))
        if not self._awaits_token:
            self._question, command = self._ask(queues, self._credit(), self._take_acks())
            commands.append(command)
        elif self.connection.has_event_loop and not self._unseen_scripts:
            # The server takes up the question when the token has come, a round trip earlier. One message:
            # more would be kept from other idle workers, and this one asks again. Without an event loop
            # nobody may come back for the answer.
            self._question, command = self._ask(queues, 1, ())
            commands.append(command)
        self._in_poll = connection
        # kombu's own check of this connection compares it with its own clock.
        self._brpop_sent_at = kombu_redis.monotonic()
        if len(commands) == 1:
            connection.send_command(*commands[0])
        else:
            connection.send_packed_command(connection.pack_commands(commands))

    def _brpop_read(self: Any, **options: Any) -> bool:
        connection = self._in_poll
        has_waited = self._awaits_token
        if self._awaits_token:
            token = self._read_answer(connection)
            self._awaits_token = False
            if self._question is None:
                self._poll_ended()
                self._waits = False
                if token is None or not self.qos.can_consume():
                    raise Empty
                # A message is there: ask at once, a turn of the event loop earlier.
                self._brpop_start()
            if not connection.can_read(timeout=_ANSWER_S):
                raise Empty
        answer = self._read_answer(connection)
        self._poll_ended()
        question, self._question = self._question, None
        n_taken = self._take(question, answer)
        self._waits = n_taken < question.limit
        self.is_delivering_one = has_waited and n_taken == 1
        if self.asks_ahead and n_taken == question.limit > 1 and self._credit():
            self._brpop_start()
        try:
            n_delivered = self.deliver_arrived(None if self.connection.has_event_loop else 1)
        finally:
            self.is_delivering_one = False
        if not n_delivered:
            raise Empty
        return True

    def _read_answer(self: Any, connection: Any) -> Any:
        try:
            return connection.read_response()
        except redis.exceptions.NoScriptError:
            self._unseen_scripts = True
            question, self._question = self._question, None
            for tag in question.acks:
                self.ledger.acknowledge(tag)
            self._poll_ended()
            raise Empty from None
        except BaseException as error:
            connection.disconnect()
            self._poll_ended()
            if isinstance(error, redis.ResponseError) and str(error).startswith(_PASSING):
                raise redis.ConnectionError(str(error)) from error
            raise

    def _poll_ended(self: Any) -> None:
        self._in_poll = None
        self._flush_brpop_reauth()

    def _on_connection_disconnect(self: Any, connection: Any) -> None:
        question = self._question
        if question is not None and self._in_poll is connection:
            self._question = None
            self._unanswered(question)
        super()._on_connection_disconnect(connection)  # type: ignore[misc]

    def deliver_arrived(self: Any, limit: int | None) -> int:
        """Hand messages that were taken to their consumers; returns how many.

        Without a limit, until the event loop has to have its turn.
        """
        n_delivered = 0
        until = monotonic() + _DELIVERING_S
        while self._arrived and self.connection is not None:
            if n_delivered == limit or (limit is None and n_delivered and monotonic() >= until):
                break
            tag, queue, raw = self._arrived.popleft()
            try:
                message = self._read(tag, queue, raw)
                if message is None:
                    continue
                n_delivered += 1
                if queue in self._no_ack_queues:
                    self.ledger.acknowledge(tag)
                self.connection._deliver(message, queue)
            except BaseException:
                # What nobody was handed would be held for ever.
                if tag not in self.qos._delivered:
                    self.ledger.give_back(tag)
                raise
        return n_delivered

    def _read(self: Any, tag: str, queue: str, raw: bytes) -> dict[str, Any] | None:
        try:
            message = guard.read(raw, self.limits)
        except guard.Malformed as error:
            bury(self, tag, queue, raw, str(error))
            return None
        if misfit := arguments.find_error(message):
            bury(self, tag, queue, raw, f"the arguments do not fit the task: {misfit}")
            arguments.fail(message, misfit)
            return None
        message["properties"]["delivery_tag"] = tag
        return message

    def _get(self: Any, queue: str) -> dict[str, Any]:
        """One message at once, for `basic_get`. Raises Empty."""
        while True:
            question, command = self._ask([queue], 1, self._take_acks())
            try:
                try:
                    answer = self._plain_client.execute_command(*command)
                except redis.exceptions.NoScriptError:
                    answer = self._plain_client.execute_command("EVAL", scripts.RESERVE.source, *command[2:])
            except BaseException:
                self._unanswered(question)
                raise
            if self._expires:
                with self.conn_or_acquire() as client:
                    self._maybe_update_queues_expire(client, queue)
            if not answer:
                raise Empty
            tag = self.ledger.tag(question.first_number, question.lists[answer[0]])
            self.ledger.hold([tag])
            try:
                message: dict[str, Any] | None = self._read(tag, queue, answer[1])
            except BaseException:
                self.ledger.give_back(tag)
                raise
            if message is not None:
                return message

    def basic_get(self: Any, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Get a message by direct access."""
        message = super().basic_get(queue, no_ack=no_ack, **kwargs)  # type: ignore[misc]
        if message is not None and no_ack:
            self.ledger.acknowledge(message.delivery_tag)
        return message

    def basic_consume(self: Any, queue: str, *args: Any, **kwargs: Any) -> Any:
        """Consume from a queue."""
        no_ack = args[0] if args else kwargs.get("no_ack", False)
        (self._no_ack_queues.add if no_ack else self._no_ack_queues.discard)(queue)
        return super().basic_consume(queue, *args, **kwargs)  # type: ignore[misc]

    # ---- closing

    def close(self: Any) -> None:
        """Give back what was taken and not delivered; what runs is kept."""
        if not self.closed and self._in_poll:
            self._end_poll()
        while self._arrived:
            self.ledger.give_back(self._arrived.popleft()[0])
        super().close()  # type: ignore[misc]

    def _end_poll(self: Any) -> None:
        question, connection = self._question, self._in_poll
        if question is not None:
            # Reading the answer is surer than giving back blindly: the server may be at it just now.
            with suppress(*self.connection_errors, redis.ResponseError):
                if self._awaits_token:
                    connection.read_response(timeout=self.wait_s + _CLOSE_TIMEOUT_S)
                    self._awaits_token = False
                answer = connection.read_response(timeout=_CLOSE_TIMEOUT_S)
                self._question = None
                self._take(question, answer)
        connection.disconnect()
        self._in_poll = None


def _record_end(queue: str) -> str:
    """What kombu writes after the message in its record, with no quote inside the name."""
    name = json.dumps(queue).replace('\\"', "\\u0022")
    return f',"",{name}]'
