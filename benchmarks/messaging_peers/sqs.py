"""Amazon SQS: moto's server, which answers slowly; the rates say what the client adds, not what AWS does."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from aiobotocore.session import get_session

from benchmarks.messaging_peers.systems import LEASE_S, System, nothing, ready_body
from pynomaly_tasks.messaging import Backend, build_backend

#: The most that SQS takes or gives with one request.
MOST = 10


class Bare:
    """aiobotocore: one message a request, or ten."""

    def __init__(self, endpoint: str) -> None:
        self.seen: Callable[[], None] = nothing
        self._endpoint = endpoint
        self._name = f"bare-{uuid.uuid4().hex[:8]}"
        self._body = ready_body().decode()
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        self._sqs = await self._stack.enter_async_context(
            get_session().create_client(
                "sqs", region_name="us-east-1", endpoint_url=self._endpoint, aws_access_key_id="key",
                aws_secret_access_key="secret",
            )
        )  # fmt: skip
        self._url = (await self._sqs.create_queue(QueueName=self._name))["QueueUrl"]

    async def close(self) -> None:
        await self._sqs.delete_queue(QueueUrl=self._url)
        await self._stack.aclose()

    async def send(self, n_messages: int, at_once: int) -> None:
        if at_once == 1:
            for _ in range(n_messages):
                await self._sqs.send_message(QueueUrl=self._url, MessageBody=self._body)
            return
        entries = [{"Id": str(n), "MessageBody": self._body} for n in range(MOST)]
        for _ in range(n_messages // MOST):
            await self._sqs.send_message_batch(QueueUrl=self._url, Entries=entries)

    async def consume(self, n_messages: int, at_once: int) -> None:
        while n_messages > 0:
            answer = await self._sqs.receive_message(
                QueueUrl=self._url, MaxNumberOfMessages=min(at_once, MOST, n_messages), WaitTimeSeconds=10,
                VisibilityTimeout=int(LEASE_S),
            )  # fmt: skip
            handles = [each["ReceiptHandle"] for each in answer.get("Messages", ())]
            for _ in handles:
                self.seen()
            if len(handles) == 1:
                await self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=handles[0])
            elif handles:
                entries = [{"Id": str(n), "ReceiptHandle": handle} for n, handle in enumerate(handles)]
                await self._sqs.delete_message_batch(QueueUrl=self._url, Entries=entries)
            n_messages -= len(handles)


class SqsBench:
    """See `Broker`."""

    name = "sqs"
    distributions: Sequence[str] = ("aiobotocore", "moto")
    n_one_by_one = 10
    n_at_once = 100
    max_rounds = 2
    max_probes = 30

    def start(self, stack: ExitStack, directory: Path) -> None:
        from support.sqs import SqsServer

        self.server = SqsServer(directory / "moto.log")
        stack.callback(self.server.stop)

    def backend(self) -> Backend:
        return build_backend("sqs", self.server.url, namespace=f"bench-{uuid.uuid4().hex[:8]}")

    def bare(self) -> System:
        return Bare(f"http://127.0.0.1:{self.server.port}")

    def faststream(self) -> None:
        return None
