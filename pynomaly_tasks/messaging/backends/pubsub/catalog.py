"""The catalog on Pub/Sub: a record is a topic that nothing is sent to, and lies in its labels.

Making a topic is the one thing in Pub/Sub that is refused when it is there already, which is what declaring
a record needs.
"""

from __future__ import annotations

import base64
import hashlib

from google.api_core.exceptions import AlreadyExists

from pynomaly_tasks.errors import InvalidQueue
from pynomaly_tasks.messaging.backend import Catalog
from pynomaly_tasks.messaging.backends.pubsub.connection import PubSubConnection
from pynomaly_tasks.messaging.plain_broker import LaneGone

#: Pub/Sub's limits: 64 labels of 63 characters, small letters and digits.
_MOST_LABELS, _LABEL = 64, 63
_KIND = "record."


class PubSubCatalog:
    """Records as labels."""

    def __init__(self, connection: PubSubConnection) -> None:
        self._connection = connection

    async def read(self) -> Catalog:
        """All of the namespace; Pub/Sub lists every topic of the project for it."""
        connection = self._connection
        begin = connection.topic(_KIND)
        records: dict[str, bytes] = {}
        with connection.mapped_errors():
            pages = await connection.publisher.list_topics(
                request={"project": connection.project, "page_size": 1_000},
                timeout=connection.timeout_s, retry=None,
            )  # fmt: skip
            async for topic in pages:
                if topic.name.startswith(begin):
                    name, record = _read(dict(topic.labels))
                    records[name] = record
        digest = hashlib.sha256(repr(sorted(records.items())).encode()).digest()
        return Catalog(int.from_bytes(digest[:6]), records)

    async def declare(self, name: str, record: bytes) -> bytes:
        """The record that stands."""
        connection, topic = self._connection, self._topic(name)
        labels = _write(name, record)
        while True:
            try:
                with connection.mapped_errors():
                    try:
                        await connection.publisher.create_topic(
                            request={"name": topic, "labels": labels},
                            timeout=connection.timeout_s,
                            retry=None,
                        )
                        return record
                    except AlreadyExists:
                        found = await connection.publisher.get_topic(
                            request={"topic": topic}, timeout=connection.timeout_s, retry=None
                        )
                        return _read(dict(found.labels))[1]
            except LaneGone:
                continue  # forgotten between the two

    async def forget(self, name: str) -> bool:
        """Whether there was one."""
        try:
            with self._connection.mapped_errors():
                await self._connection.publisher.delete_topic(
                    request={"topic": self._topic(name)}, timeout=self._connection.timeout_s, retry=None
                )
        except LaneGone:
            return False
        return True

    def _topic(self, name: str) -> str:
        return self._connection.topic(_KIND + hashlib.sha256(name.encode()).hexdigest()[:40])


def _write(name: str, record: bytes) -> dict[str, str]:
    text = base64.b32encode(name.encode() + b"\0" + record).decode().rstrip("=").lower()
    pieces = [text[at : at + _LABEL] for at in range(0, len(text), _LABEL)]
    if len(pieces) > _MOST_LABELS:
        raise InvalidQueue.of(
            "name", "is too long for Pub/Sub's labels together with the options; shorten it"
        )
    return {f"r{n:02}": piece for n, piece in enumerate(pieces)}


def _read(labels: dict[str, str]) -> tuple[str, bytes]:
    text = "".join(labels[key] for key in sorted(labels) if key[0] == "r").upper()
    name, _, record = base64.b32decode(text + "=" * (-len(text) % 8)).partition(b"\0")
    return name.decode(), record
