"""Putting messages into queues: one step, safe to try again, that wakes an idle worker."""

from __future__ import annotations

import os
import secrets
from collections import Counter, deque
from typing import Any

import redis
from kombu.transport import redis as kombu_redis
from kombu.utils.json import JSONEncoder

from pynomaly_tasks.transport import scripts

#: Tokens that wait for idle workers, at most; each wakes one.
MAX_WAKE_TOKENS = 128
WAKE_EXPIRES_S = 60
#: A publish that is tried again later than this could be put there twice.
SLOT_EXPIRES_S = 3_600
SLOT_KEY = "_kombu.published.%s"

#: Where a failed publish is kept in the message's properties, which the next try is given again.
_FAILED = "\0failed"

#: What kombu's `dumps` makes on each call.
encode = JSONEncoder().encode


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


def put(client: redis.Redis, list_key: str, wake_key: str, prefix: str, message: dict[str, Any],
        expires: tuple[int, list[str]] = (0, [])) -> None:  # fmt: skip
    """Put one message there. A lost answer is asked for once more, without doubling the message.

    Raises redis errors. kombu then tries again with the same properties, and the slot kept there
    makes that the same publish.
    """
    properties = message["properties"]
    slot = properties.pop(_FAILED, None)
    if not (isinstance(slot, Slot) and slot.pid == os.getpid()):
        slot = _take_slot()
        slot.number += 1
    keys = [list_key, wake_key, prefix + SLOT_KEY % slot.name, *expires[1]]
    args = [slot.number, SLOT_EXPIRES_S, MAX_WAKE_TOKENS, WAKE_EXPIRES_S, expires[0], encode(message)]
    try:
        try:
            scripts.PUBLISH.run(client, keys, args)
        except (redis.ConnectionError, redis.TimeoutError):
            scripts.PUBLISH.run(client, keys, args)
    except BaseException:
        properties[_FAILED] = slot
        raise
    _free_slots.append(slot)


class PublishBatch(kombu_redis.PublishBatch):  # type: ignore[misc]  # kombu has no types
    """kombu's batch, which also wakes idle workers."""

    def __init__(self, channel: Any, max_size: int) -> None:
        super().__init__(channel, max_size)
        self._published: Counter[str] = Counter()

    def wake(self, wake_key: str) -> None:
        """One message more for this queue."""
        self._published[wake_key] += 1

    def flush(self) -> None:
        """Send all that was buffered, in one round trip."""
        for wake_key, n_messages in self._published.items():
            self.pipeline.execute_command(
                *scripts.WAKE.command(
                    [wake_key], [n_messages, MAX_WAKE_TOKENS, WAKE_EXPIRES_S], with_source=True
                )
            )
        self._published.clear()
        super().flush()
