"""An aiokafka producer that can be thrown away at any moment.

aiokafka's own `stop` waits for everything that was sent, however long Kafka is away, and a task that it
leaves behind waits for a metadata update that nobody makes any more.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.errors import BrokerResponseError, kafka_errors

from pynomaly_tasks.kafka_client.clients import build_producer

_CLOSE_TIMEOUT_S = 1.0


class InvalidRecord(BrokerResponseError):  # type: ignore[misc]  # aiokafka has no types
    """A record that the topic forbids, such as one without a key where only the newest of each is kept."""

    errno = 87
    message = "INVALID_RECORD"
    description = "The topic forbids this record."


# aiokafka 0.14 has no class for it, and takes it for an unknown error that may pass.
kafka_errors.setdefault(InvalidRecord.errno, InvalidRecord)


class ProducerClient:
    """One aiokafka producer, from its first connection to its last."""

    def __init__(self, **options: Any) -> None:
        self.aiokafka = build_producer(**options)
        self._requests: set[asyncio.Task[Any]] = set()
        sender = self.aiokafka._sender
        send_request = sender._send_produce_req

        async def tracked(node_id: int, batches: Any) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._requests.add(task)
            try:
                await send_request(node_id, batches)
            finally:
                self._requests.discard(task)

        sender._send_produce_req = tracked

    async def start(self) -> None:
        """Connect and get a producer id. Waits for ever where Kafka does not answer."""
        await self.aiokafka.start()

    async def abandon(self) -> None:
        """End every task and connection now; what was not acknowledged stays unknown."""
        self.aiokafka._closed = True
        sender: asyncio.Task[Any] | None = self.aiokafka._sender.sender_task
        tasks = [*self._requests, *([sender] if sender is not None else [])]
        for task in reversed(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_TIMEOUT_S)
        if sender is not None and sender.done() and not sender.cancelled():
            sender.exception()  # seen here, so that it is not reported as never seen
        await self.aiokafka.client.close()
