"""Looking at what lies in an SQS queue, which SQS has no request for.

Everything is received, for `_HOLD_S` at most, and given back at once; for that long nobody else sees it. Who
looked a moment ago sees the same again, so that the pages of a list, and what is done with its letters, cost
one look together. At most `MAX_SEEN` are looked at.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pynomaly_tasks.messaging.backends.sqs.connection import SqsConnection
from pynomaly_tasks.messaging.backends.sqs.items import data_of, key_of
from pynomaly_tasks.messaging.plain_broker import Lying

MAX_SEEN = 10_000
_HOLD_S = 30
_FRESH_S = 5.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One message."""

    lying: Lying
    handle: str


class SqsBrowser:
    """Remembers, for each queue, what it saw in the last seconds."""

    def __init__(self, connection: SqsConnection) -> None:
        self._connection = connection
        self._seen: dict[str, tuple[float, dict[str, Seen]]] = {}

    async def look(self, url: str) -> dict[str, Seen]:
        """What lies there, by key in order."""
        at, seen = self._seen.get(url, (0.0, {}))
        if time.monotonic() - at <= _FRESH_S and at:
            return seen
        messages = await self._receive_all(url)
        found = {
            key_of(each): Seen(Lying(key=key_of(each), data=data_of(each)), each["ReceiptHandle"])
            for each in messages
        }
        seen = dict(sorted(found.items()))
        if seen:
            self._seen[url] = (time.monotonic(), seen)
        return seen

    async def remove(self, url: str, key: str) -> bool:
        """Whether it was there."""
        seen = (await self.look(url)).pop(key, None)
        if seen is None:
            return False
        (is_done,) = await self._connection.batch(
            "delete_message_batch", url, [{"ReceiptHandle": seen.handle}]
        )
        return is_done

    def forget(self, url: str) -> None:
        """It is another queue now, or has more in it."""
        self._seen.pop(url, None)

    async def _receive_all(self, url: str) -> list[Mapping[str, Any]]:
        messages: list[Mapping[str, Any]] = []
        try:
            while len(messages) < MAX_SEEN:
                answer = await self._connection.call(
                    "receive_message",
                    QueueUrl=url,
                    MaxNumberOfMessages=10,
                    VisibilityTimeout=_HOLD_S,
                    WaitTimeSeconds=0,
                    MessageAttributeNames=["All"],
                    MessageSystemAttributeNames=["SentTimestamp"],
                )
                if not answer.get("Messages"):
                    break
                messages += answer["Messages"]
        finally:
            for at in range(0, len(messages), 10):
                entries = [
                    {"ReceiptHandle": each["ReceiptHandle"], "VisibilityTimeout": 0}
                    for each in messages[at : at + 10]
                ]
                await self._connection.batch("change_message_visibility_batch", url, entries)
        return messages
