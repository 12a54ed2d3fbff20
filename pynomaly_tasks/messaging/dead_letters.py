"""Messages that could not be done, kept for a person: listed, shown, sent again, discarded."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import orjson

from pynomaly_tasks.errors import Conflict, NotFound, UnreadableMessage
from pynomaly_tasks.messaging.backend import Entry, Held, Stored
from pynomaly_tasks.messaging.message import Message
from pynomaly_tasks.messaging.session import Session
from pynomaly_tasks.messaging.topology import UNROUTED, Topology, dead_channel, dead_record

_PAGE = 200


class Reason(Enum):
    """Why a message is a dead letter."""

    RETRIES_USED_UP = "retries_used_up"  #: its last try failed, or its consumers kept dying with it
    HANDLER_ERROR = "handler_error"  #: rejected: trying again could not help
    EXPIRED = "expired"  #: older than its TTL
    NO_SUBSCRIBER = "no_subscriber"  #: published to a topic that nobody subscribed to
    UNREADABLE = "unreadable"  #: the bytes are no message
    CIRCUIT_OPEN = "circuit_open"  #: its subscriber kept failing
    OVERFLOW = "overflow"  #: the queue was full


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One of them."""

    id: str  #: the broker's name for it, within the dead letters of its queue
    queue: str  #: that it lay in; empty for one that no subscriber matched
    topic: str  #: that it was published to, where known
    reason: Reason
    error: str  #: for people
    message_id: str
    n_attempts: int
    dead_at: datetime  #: UTC, by the clock of the process that gave it up; now, where nobody noted it
    priority: int
    raw: bytes  #: exactly what lay in the broker
    message: Message | None  #: None where the bytes cannot be read


def dead_entry(
    *,
    queue: str,
    topic: str,
    reason: Reason,
    error: str,
    message_id: str,
    n_attempts: int,
    priority: int,
    raw: bytes,
    dead_at: datetime | None = None,
) -> Entry:
    """What is put among the dead letters of ``queue``; ``dead_at``: None is now."""
    letter = {
        "reason": reason.value,
        "error": error.encode("utf-8", "replace").decode()[:2_000],
        "topic": topic,
        "n_attempts": n_attempts,
        "priority": priority,
        "dead_at": (dead_at or datetime.now(UTC)).isoformat(),
        "raw": base64.b64encode(raw).decode(),
    }
    return Entry(channel=dead_channel(queue), message_id=message_id, body=orjson.dumps(letter))


def dead_entry_of(held: Held, reason: Reason, error: str, message: Message | None) -> Entry:
    """What is put among the dead letters for something held."""
    return dead_entry(
        queue=held.channel,
        topic=message.topic if message else "",
        reason=reason,
        error=error,
        message_id=held.message_id,
        n_attempts=held.n_deliveries,
        priority=held.priority,
        raw=held.body,
    )


#: What is said of bytes that are no letter.
_FOREIGN: dict[str, Any] = {
    "error": "another program put these bytes among the dead letters",
    "topic": "",
    "n_attempts": 0,
    "priority": 0,
}


class DeadLetters:
    """The dead letters of every queue; the queue ``""`` holds those that no subscriber matched."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def list_letters(
        self, queue: str | None = None, *, limit: int = 100, after: str = ""
    ) -> list[DeadLetter]:
        """The oldest first; of one queue from the letter after ``after`` on, or of all queues."""
        if queue is not None:
            return await self._page(queue, after, limit)
        topology = await self._session.topology(fresh=True)
        letters: list[DeadLetter] = []
        for name in sorted(topology.dead):
            letters += await self._page("" if name == UNROUTED else name, "", limit - len(letters))
            if len(letters) >= limit:
                break
        return letters

    async def show(self, queue: str, letter_id: str) -> DeadLetter:
        """One letter. Raises NotFound."""
        stored = await self._session.backend.find(dead_channel(queue or UNROUTED), letter_id)
        if stored is None:
            raise NotFound(f"there is no dead letter {letter_id!r:.60} of the queue {queue!r:.80}")
        return self._read(queue, stored)

    async def redrive(self, queue: str, letter_id: str) -> None:
        """Send it to its queue again, its attempts counted from the start, or to its topic's subscribers.

        Raises NotFound, also when the queue is gone; Conflict when still nobody subscribed.
        """
        letter = await self.show(queue, letter_id)
        entries = self._again(letter, await self._session.topology(fresh=True))
        await self._remove(letter, entries)

    async def discard(self, queue: str, letter_id: str) -> None:
        """Remove it for good. Raises NotFound."""
        await self._remove(await self.show(queue, letter_id), [])

    async def redrive_all(self, queue: str) -> int:
        """`redrive` each letter that is there now; how many."""
        topology = await self._session.topology(fresh=True)
        n = 0
        async for letter in self._all(queue):
            await self._remove(letter, self._again(letter, topology))
            n += 1
        return n

    async def discard_all(self, queue: str) -> int:
        """Remove each letter that is there now; how many. A deleted queue's place goes with them."""
        n = 0
        async for letter in self._all(queue):
            await self._remove(letter, [])
            n += 1
        if queue and queue not in (await self._session.topology(fresh=True)).queues:
            await self._session.backend.forget(dead_record(queue))
        return n

    async def message_ids(self, queue: str) -> set[str]:
        """Of the messages that lie there now."""
        return {letter.message_id async for letter in self._all(queue)}

    async def _all(self, queue: str) -> AsyncIterator[DeadLetter]:
        """Up to the newest letter of now: one that dies again meanwhile is not taken twice."""
        count = (await self._session.backend.measure(dead_channel(queue or UNROUTED))).depth or 0
        after = ""
        while count > 0 and (page := await self._page(queue, after, min(count, _PAGE))):
            for letter in page:
                yield letter
            count -= len(page)
            after = page[-1].id

    async def _page(self, queue: str, after: str, limit: int) -> list[DeadLetter]:
        if limit <= 0:
            return []
        stored = await self._session.backend.browse(dead_channel(queue or UNROUTED), after=after, limit=limit)
        return [self._read(queue, each) for each in stored]

    def _read(self, queue: str, stored: Stored) -> DeadLetter:
        try:
            letter = orjson.loads(stored.body)
            told = {name: letter[name] for name in _FOREIGN}
            reason = Reason(letter["reason"])
            raw, dead_at = base64.b64decode(letter["raw"]), datetime.fromisoformat(letter["dead_at"])
        except (ValueError, KeyError, TypeError):
            told, reason, raw, dead_at = _FOREIGN, Reason.UNREADABLE, stored.body, datetime.now(UTC)
        message: Message | None
        try:
            message = self._session.codec.decode(raw, queue=queue)
        except UnreadableMessage:
            message = None
        return DeadLetter(
            id=stored.key,
            queue=queue,
            reason=reason,
            message_id=stored.message_id,
            dead_at=dead_at,
            raw=raw,
            message=message,
            **told,
        )

    def _again(self, letter: DeadLetter, topology: Topology) -> list[Entry]:
        queues = [letter.queue] if letter.queue else topology.matching(letter.topic)
        if not queues:
            raise Conflict(f"still nobody subscribed to {letter.topic!r:.80}; subscribe first")
        entries = []
        for queue in queues:
            options = topology.get_queue(queue)
            if letter.message is None:
                entry = Entry(
                    channel=queue, message_id=letter.message_id, body=letter.raw, priority=letter.priority
                )
            else:
                entry = self._session.entry(queue, options, letter.message, letter.raw)
            entries.append(entry)
        return entries

    async def _remove(self, letter: DeadLetter, then: list[Entry]) -> None:
        channel = dead_channel(letter.queue or UNROUTED)
        if not await self._session.backend.remove(channel, letter.id, then=then):
            raise NotFound(f"the dead letter {letter.id} of {letter.queue!r:.80} was removed meanwhile")
