"""Which SQS queue a lane is.

AWS refuses a queue whose name one had that was deleted within the last minute, so each has a mark of its own
in its name, and the catalog says which: the record ``sqs/LANE``. A process that still knows the old one is told
that it is gone, and looks again.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager

from pynomaly_tasks.messaging.backends.sqs.catalog import SqsCatalog
from pynomaly_tasks.messaging.backends.sqs.connection import SqsConnection
from pynomaly_tasks.messaging.backends.sqs.items import new_name
from pynomaly_tasks.messaging.plain_broker import LaneGone

#: What AWS asks to wait before a new queue is used.
_NEW_QUEUE_S = 1.0
_LONGEST_NAME = 74


class SqsLanes:
    """The URLs of the lanes that this process has used."""

    def __init__(self, connection: SqsConnection, catalog: SqsCatalog, prefix: str) -> None:
        self._connection = connection
        self._catalog = catalog
        self._prefix = prefix
        self._urls: dict[str, str] = {}

    @contextmanager
    def url(self, lane: str) -> Iterator[str]:
        """The lane's queue, for the requests in the block. Raises LaneGone for one that is not made.

        Where the service says LaneGone in the block the lane is forgotten, unless it was made anew meanwhile: a
        long poll may end that late.
        """
        self._connection.check_open()
        if lane not in self._urls:
            raise LaneGone(f"the lane {lane} is not made")
        url = self._urls[lane]
        try:
            yield url
        except LaneGone:
            if self._urls.get(lane) == url:
                del self._urls[lane]
            raise

    def forget(self, lane: str) -> str:
        """Ask the catalog before it is used again; the URL that it had, or nothing."""
        return self._urls.pop(lane, "")

    async def make(self, lane: str) -> None:
        """Of two processes that make it at once, one removes its own again."""
        if lane in self._urls:
            return
        record = (await self._catalog.read()).records.get(f"sqs/{lane}")
        if record is None:
            mine = new_name()[:10]
            url = await self._create(lane, mine)
            record = await self._catalog.declare(f"sqs/{lane}", mine.encode())
            if record == mine.encode():
                if self._connection.address.endpoint is None:
                    await asyncio.sleep(_NEW_QUEUE_S)
                self._urls[lane] = url
                return
            await self._connection.call("delete_queue", QueueUrl=url)
        self._urls[lane] = await self._create(lane, record.decode())

    async def erase(self, lane: str) -> None:
        """That there is none is fine."""
        record = (await self._catalog.read()).records.get(f"sqs/{lane}")
        if record is None:
            return
        await self._catalog.forget(f"sqs/{lane}")
        try:
            url = await self._create(lane, record.decode())
            await self._connection.call("delete_queue", QueueUrl=url)
        except LaneGone:
            return

    async def _create(self, lane: str, mark: str) -> str:
        """Its URL; with the same attributes it may be there already."""
        is_fifo = self._connection.address.fifo
        attributes = {"MessageRetentionPeriod": "1209600"}
        if is_fifo:
            attributes |= {"FifoQueue": "true", "ContentBasedDeduplication": "false"}
        name = queue_name(self._prefix, lane, mark) + (".fifo" if is_fifo else "")
        answer = await self._connection.call("create_queue", QueueName=name, Attributes=attributes)
        return str(answer["QueueUrl"])


def queue_prefix(namespace: str) -> str:
    """Readable, and with a hash, as namespaces may hold what SQS does not take."""
    mark = hashlib.sha256(namespace.encode()).hexdigest()[:8]
    return f"{_plain(namespace)[:16]}-{mark}-"


def queue_name(prefix: str, lane: str, mark: str) -> str:
    """At most 75 characters of those that SQS takes; the mark makes it one of a kind."""
    return f"{prefix}{_plain(lane)[: _LONGEST_NAME - len(prefix) - len(mark)]}-{mark}"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)
