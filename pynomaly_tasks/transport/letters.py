"""Dead letters in Redis, for a person: list, show, replay and discard them, in any Celery app.

``pynomaly broker-letters`` does the same in a shell.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

import orjson
import redis

from pynomaly_tasks.errors import NotFound
from pynomaly_tasks.transport import scripts
from pynomaly_tasks.transport.publishing import MAX_WAKE_TOKENS, WAKE_EXPIRES_S

_SEPARATOR = "\x06\x16"  # kombu's, within a queue's keys
_PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A message that was not delivered, or was refused."""

    id: str  #: made of what lies in Redis, so it is the same for everybody who looks
    queue: str
    raw: bytes  #: the message as it was in the queue
    reason: str
    at: datetime | None  #: UTC; None where what lies there is no letter of ours
    entry: bytes = field(repr=False)  #: as it lies in Redis


class Letters:
    """The dead letters of one broker database.

    Replaying and discarding take a letter out in one step on the server: of two people who do it at
    the same time, one does. Raises redis errors.
    """

    def __init__(self, client: redis.Redis, *, prefix: str = "") -> None:
        """``prefix``: the app's ``global_keyprefix``. The client must not decode responses."""
        self._client: Any = client  # redis-py types each answer as perhaps awaitable
        self._prefix = prefix

    @classmethod
    def at(cls, url: str, *, prefix: str = "") -> Self:
        """Of the broker at this URL, with the number of its database; close it."""
        return cls(redis.Redis.from_url(url, socket_timeout=10.0, socket_connect_timeout=5.0), prefix=prefix)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def queues(self) -> list[str]:
        """The queues that have dead letters; looks at every key of the database."""
        pattern = f"{_escaped(self._prefix)}*{_SEPARATOR}dead"
        start, end = len(self._prefix), -len(f"{_SEPARATOR}dead")
        return sorted({key.decode()[start:end] for key in self._client.scan_iter(match=pattern, count=1_000)})

    def count(self, *queues: str) -> int:
        """How many these queues have together."""
        with self._client.pipeline(transaction=False) as pipeline:
            for queue in queues:
                pipeline.llen(self._key(queue))
            return sum(pipeline.execute())

    def list(self, queue: str | None = None) -> Iterator[Letter]:
        """Of one queue, or of all; in each the newest first."""
        for each in self.queues() if queue is None else [queue]:
            start = 0
            while entries := self._client.lrange(self._key(each), start, start + _PAGE - 1):
                yield from (_letter(each, entry) for entry in entries)
                start += len(entries)

    def get(self, letter_id: str, queue: str | None = None) -> Letter:
        """The letter with this id. Raises NotFound."""
        for letter in self.list(queue):
            if letter.id == letter_id:
                return letter
        raise NotFound(f"there is no dead letter {letter_id}; it was replayed or discarded, or never was")

    def replay(self, letter: Letter, raw: bytes | None = None) -> bool:
        """Put the message, or ``raw`` in its place, back into its queue, and take the letter out, at once.

        False when the letter is not there any more, and then nothing was put anywhere.
        """
        queue = self._prefix + letter.queue
        return bool(
            scripts.REPLAY_DEAD.run(
                self._client,
                [self._key(letter.queue), queue, f"{queue}{_SEPARATOR}wake"],
                [letter.entry, letter.raw if raw is None else raw, MAX_WAKE_TOKENS, WAKE_EXPIRES_S],
            )
        )

    def discard(self, letter: Letter) -> bool:
        """Take the letter out for good. False when it is not there any more."""
        return bool(self._client.lrem(self._key(letter.queue), -1, letter.entry))

    def _key(self, queue: str) -> str:
        return f"{self._prefix}{queue}{_SEPARATOR}dead"


def queue_of(message: Any) -> str:
    """The queue that kombu's message was sent to."""
    return str((message.delivery_info or {}).get("routing_key") or "unknown")


def raw_message(message: Any) -> bytes:
    """kombu's message as it may lie in a queue; its body is no longer compressed."""
    parts = message.serializable()
    # A tag of ours says who holds a message, which is nobody here.
    parts["properties"] = {**parts["properties"], "delivery_tag": str(uuid.uuid4())}
    return orjson.dumps(parts)


def _letter(queue: str, entry: bytes) -> Letter:
    letter_id = hashlib.sha256(entry).hexdigest()[:16]
    try:
        parts = orjson.loads(entry)
        return Letter(
            id=letter_id,
            queue=queue,
            raw=base64.b64decode(parts["raw"], validate=True),
            reason=str(parts["reason"]),
            at=datetime.fromtimestamp(parts["at"], UTC),
            entry=entry,
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        reason = "somebody else put this here; it is taken for the message itself"
        return Letter(id=letter_id, queue=queue, raw=entry, reason=reason, at=None, entry=entry)


def _escaped(prefix: str) -> str:
    return "".join(f"\\{character}" if character in "*?[]^\\" else character for character in prefix)
