"""Putting messages into queues: one step, safe to try again, that wakes an idle worker."""

from __future__ import annotations

import itertools
import os
import secrets
from collections import deque
from dataclasses import dataclass
from typing import Any

import hiredis
import redis
from kombu.exceptions import BatchPublishError
from kombu.transport import redis as kombu_redis
from redis.connection import HiredisRespSerializer
from redis.sentinel import SentinelConnectionPool

from pynomaly_tasks.transport import scripts
from pynomaly_tasks.transport.encoding import encode

#: Tokens that wait for idle workers, at most; each wakes one.
MAX_WAKE_TOKENS = 128
WAKE_EXPIRES_S = 60
#: A publish that is tried again later than this could be put there twice.
SLOT_EXPIRES_S = 3_600
SLOT_KEY = "_kombu.published.%s"
MAX_MESSAGES_PER_STEP = 1_000

#: Where a failed publish is kept in the message's properties, which the next try is given again.
FAILED = "\0failed"


class Slot:
    """A name under which publishes are numbered, one at a time."""

    def __init__(self) -> None:
        self.name = secrets.token_hex(8)
        self.number = 0
        self.pid = os.getpid()


_free_slots: deque[Slot] = deque()


def _take_slot() -> Slot:
    while True:
        try:
            slot = _free_slots.popleft()
        except IndexError:
            return Slot()
        # A forked child must not count on under its parent's name: the server would take its
        # messages for repetitions.
        if slot.pid == os.getpid():
            return slot


class Tags:
    """Delivery tags as plain workers need them: no two messages share one."""

    def __init__(self) -> None:
        self._pid = -1
        self._prefix = ""
        self._numbers = itertools.count()

    def next(self) -> str:
        """One that nobody had."""
        if os.getpid() != self._pid:
            self._prefix, self._pid = secrets.token_hex(8), os.getpid()
        return f"{self._prefix}-{next(self._numbers)}"


tags = Tags()


class Lines:
    """Connections of one pool that are kept for publishing.

    The pool's own way of lending one out and taking it back costs as much as the publish itself.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._pool: Any = client.connection_pool
        self._pid = os.getpid()
        self._free: deque[Any] = deque()
        # These watch what their pool's connections are: who is master, or which credentials hold.
        self._are_kept = not (
            isinstance(self._pool, SentinelConnectionPool)
            or self._pool.connection_kwargs.get("credential_provider")
        )

    def run(self, script: scripts.Script, keys: list[str], args: list[scripts.Argument]) -> Any:
        """Run a script that may be run again; redis-py's own tries follow when this one fails."""
        if not self._are_kept or os.getpid() != self._pid:
            return script.run(self.client, keys, args)
        try:
            connection = self._free.pop()
        except IndexError:
            connection = self._pool.get_connection()
        try:
            connection.send_packed_command(_pack(connection, script.command(keys, args)))
            answer = connection.read_response()
        except redis.ResponseError as error:
            self._free.append(connection)
            if not isinstance(error, redis.exceptions.NoScriptError):
                raise
        except redis.ConnectionError:
            self._drop(connection)
        except BaseException:
            # The answer may still come; the next one who reads would take it for theirs. A server that
            # does not answer is not asked again here: each time costs a whole `socket_timeout`.
            self._drop(connection)
            raise
        else:
            self._free.append(connection)
            return answer
        return script.run(self.client, keys, args)

    def _drop(self, connection: Any) -> None:
        connection.disconnect()
        self._pool.release(connection)


def _pack(connection: Any, command: tuple[scripts.Argument, ...]) -> list[bytes]:
    packer = connection._command_packer
    if type(packer) is HiredisRespSerializer:
        # It looks at each part of a command first, for what ours do not have.
        return [hiredis.pack_command(command)]  # type: ignore[arg-type]  # its stub has a tuple of one
    packed: list[bytes] = packer.pack(*command)
    return packed


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message goes."""

    list_key: str
    wake_key: str
    prefix: str  #: of all keys
    expires_ms: int = 0
    expiring_lists: tuple[str, ...] = ()

    def step(self, slot: Slot, messages: list[bytes | str]) -> tuple[list[str], list[scripts.Argument]]:
        """Keys and arguments of publish.lua."""
        keys = [self.list_key, self.wake_key, self.prefix + SLOT_KEY % slot.name, *self.expiring_lists]
        limits = [slot.number, SLOT_EXPIRES_S, MAX_WAKE_TOKENS, WAKE_EXPIRES_S, self.expires_ms]
        return keys, [*limits, *messages]


def put(lines: Lines, place: Place, message: dict[str, Any]) -> None:
    """Put one message there. A lost answer is asked for once more, without doubling the message.

    Raises redis errors. kombu then tries again with the same properties, and the slot kept there
    makes that the same publish.
    """
    properties = message["properties"]
    slot = properties.pop(FAILED, None)
    if not (isinstance(slot, Slot) and slot.pid == os.getpid()):
        slot = _take_slot()
        slot.number += 1
    keys, args = place.step(slot, [encode(message)])
    try:
        try:
            lines.run(scripts.PUBLISH, keys, args)
        except redis.ConnectionError:
            scripts.PUBLISH.run(lines.client, keys, args)
    except BaseException:
        properties[FAILED] = slot
        raise
    _free_slots.append(slot)


class PublishBatch(kombu_redis.PublishBatch):  # type: ignore[misc]  # kombu has no types
    """kombu's batch; wakes idle workers, and a lost answer doubles nothing."""

    def __init__(self, channel: Any, max_size: int) -> None:
        super().__init__(channel, max_size)
        self._waiting: dict[Place, list[bytes | str]] = {}
        self._n_waiting = 0

    def publish(self, message: dict[str, Any], **options: Any) -> Any:
        """Add one message; all are sent when ``max_size`` wait."""
        result = super().publish(message, **options)
        if self._n_waiting >= self.max_size:
            self.flush()
        return result

    def put(self, place: Place, message: dict[str, Any]) -> None:
        """One message more for this place."""
        encoded = encode(message)
        self._waiting.setdefault(place, []).append(encoded)
        self._n_waiting += 1

    def flush(self) -> None:
        """Send all that was buffered, in one round trip for the queues. Raises BatchPublishError."""
        self._check_usable()
        if self._n_waiting:
            waiting, self._waiting, self._n_waiting = self._waiting, {}, 0
            try:
                self._send(waiting)
            except BaseException as error:
                self._failed = error
                self._buffered = 0
                self.pipeline.reset()
                if isinstance(error, Exception):
                    raise BatchPublishError("publish batch failed; delivery is uncertain") from error
                raise
        super().flush()

    def _send(self, waiting: dict[Place, list[bytes | str]]) -> None:
        slots, steps = [], []
        for place, messages in waiting.items():
            for start in range(0, len(messages), MAX_MESSAGES_PER_STEP):
                slot = _take_slot()
                slot.number += 1
                slots.append(slot)
                steps.append(place.step(slot, messages[start : start + MAX_MESSAGES_PER_STEP]))
        try:
            self._execute(steps, with_source=False)
        except (redis.ConnectionError, redis.exceptions.NoScriptError):
            self._execute(steps, with_source=True)
        _free_slots.extend(slots)

    def _execute(self, steps: list[tuple[list[str], list[scripts.Argument]]], *, with_source: bool) -> None:
        with self.channel.lines.client.pipeline(transaction=False) as pipeline:
            for keys, args in steps:
                pipeline.execute_command(*scripts.PUBLISH.command(keys, args, with_source=with_source))
            pipeline.execute()

    def discard(self) -> None:
        """Forget what was not sent."""
        self._waiting, self._n_waiting = {}, 0
        super().discard()
