"""The catalog on SQS: one message, in a FIFO queue of its own, that holds all records.

The queue has one message group, so whoever receives the message has it alone: that is the lock. To read is
to receive it for no time at all. To write is to receive it for ten seconds, send the next version behind it,
and delete it. A writer that dies between leaves both, and the higher version holds; one that dies before
holds up the others for the rest of its ten seconds. SQS keeps a message for 14 days, so the first process
that sees one older than a day writes it anew.

Why not elsewhere: tags of a queue are too few and too small, and cannot be changed by two processes safely.
"""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from pynomaly_tasks.errors import BrokerUnavailable, NotSupported
from pynomaly_tasks.messaging.backend import Catalog
from pynomaly_tasks.messaging.backends.sqs.connection import SqsConnection

_LOCK_S = 10
_OLD_S = 86_400.0
#: Longer than a writer that died can hold it up.
_WAIT_S = 2.0 * _LOCK_S
_MAX_BYTES = 1_000_000


class SqsCatalog:
    """Reads and writes it."""

    def __init__(self, connection: SqsConnection, queue: str) -> None:
        """``queue``: its name, which ends in ``.fifo``."""
        self._connection = connection
        self._queue = queue
        self._url = ""
        self._writing = asyncio.Lock()

    async def open(self) -> None:
        """Make the queue unless it is there."""
        answer = await self._connection.call(
            "create_queue",
            QueueName=self._queue,
            Attributes={
                "FifoQueue": "true",
                "ContentBasedDeduplication": "false",
                "MessageRetentionPeriod": "1209600",
            },
        )
        self._url = answer["QueueUrl"]

    async def read(self) -> Catalog:
        """All records."""
        messages = await self._receive(0)
        catalog = _newest(messages)
        if time.time() - min(_sent_at(message) for message in messages) > _OLD_S:
            return await self.write(lambda records: True)
        return catalog

    async def write(self, change: Callable[[dict[str, bytes]], bool]) -> Catalog:
        """Change the records, alone; ``change`` says whether it did. The catalog that stands then."""
        async with self._writing:
            messages = await self._receive(_LOCK_S)
            catalog = _newest(messages)
            records = dict(catalog.records)
            if change(records):
                catalog = Catalog(catalog.version + 1, records)
                await self._send(catalog, uuid.uuid4().hex)
                old = messages
            else:
                newest = max(messages, key=lambda message: _read(message).version)
                old = [message for message in messages if message is not newest]
                await self._connection.call(
                    "change_message_visibility",
                    QueueUrl=self._url,
                    ReceiptHandle=newest["ReceiptHandle"],
                    VisibilityTimeout=0,
                )
            for message in old:
                await self._connection.call(
                    "delete_message", QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"]
                )
            return catalog

    async def declare(self, name: str, record: bytes) -> bytes:
        """Keep the record, or return the one that stands."""

        def add(records: dict[str, bytes]) -> bool:
            return records.setdefault(name, record) is record

        standing = (await self.read()).records.get(name)
        return (await self.write(add)).records[name] if standing is None else standing

    async def forget(self, name: str) -> bool:
        """Drop a record; whether there was one."""
        was_there = False

        def drop(records: dict[str, bytes]) -> bool:
            nonlocal was_there
            was_there = records.pop(name, None) is not None
            return was_there

        if name in (await self.read()).records:
            await self.write(drop)
        return was_there

    async def _receive(self, hold_s: int) -> list[Mapping[str, Any]]:
        end = time.monotonic() + _WAIT_S
        while True:
            answer = await self._connection.call(
                "receive_message",
                wait_s=1.0,
                QueueUrl=self._url,
                MaxNumberOfMessages=10,
                VisibilityTimeout=hold_s,
                WaitTimeSeconds=0,
                MessageSystemAttributeNames=["SentTimestamp"],
            )
            if messages := list(answer.get("Messages", ())):
                return messages
            if time.monotonic() > end:
                raise BrokerUnavailable(
                    f"another process has held the catalog of {self._queue} for {_WAIT_S:g} s"
                )
            if await self._is_empty():
                # Of all that begin at once one is heard: that is what the name of the message is for. One that
                # comes later does no harm: the higher version holds.
                await self._send(Catalog(), "first")
            else:
                await asyncio.sleep(0.02)

    async def _is_empty(self) -> bool:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = await self._connection.call("get_queue_attributes", QueueUrl=self._url, AttributeNames=names)
        return not any(int(answer["Attributes"][name]) for name in names)

    async def _send(self, catalog: Catalog, name: str) -> None:
        records = {key: base64.b85encode(record).decode() for key, record in catalog.records.items()}
        plain = orjson.dumps({"version": catalog.version, "records": records})
        body = base64.b64encode(zlib.compress(plain)).decode()
        if len(body) > _MAX_BYTES:
            raise NotSupported.of(
                "queue",
                f"the catalog has {len(records):,} records and would be {len(body):,} bytes; SQS takes "
                f"{_MAX_BYTES:,}: delete queues, or give parts of them another namespace",
            )
        await self._connection.call(
            "send_message",
            QueueUrl=self._url,
            MessageBody=body,
            MessageGroupId="catalog",
            MessageDeduplicationId=name,
        )


def _newest(messages: list[Mapping[str, Any]]) -> Catalog:
    return max(map(_read, messages), key=lambda catalog: catalog.version)


def _read(message: Mapping[str, Any]) -> Catalog:
    plain = orjson.loads(zlib.decompress(base64.b64decode(message["Body"])))
    records = {key: base64.b85decode(record) for key, record in plain["records"].items()}
    return Catalog(plain["version"], records)


def _sent_at(message: Mapping[str, Any]) -> float:
    return int(message["Attributes"]["SentTimestamp"]) / 1_000
