"""Google Cloud Pub/Sub: Google's own emulator, in memory; the rates say what the client adds, not what the service does."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import grpc
from google.pubsub_v1.services.publisher import PublisherAsyncClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from google.pubsub_v1.services.subscriber import SubscriberAsyncClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport
from google.pubsub_v1.types import PubsubMessage

from benchmarks.messaging_peers.systems import LEASE_S, WAIT_S, System, nothing, ready_body
from pynomaly_tasks.messaging import Backend, build_backend


class Bare:
    """Google's asyncio clients: a publish, a pull and an acknowledge request for each batch."""

    def __init__(self, endpoint: str) -> None:
        self.seen: Callable[[], None] = nothing
        self._endpoint = endpoint
        name = f"bare-{uuid.uuid4().hex[:8]}"
        self._topic = f"projects/bench/topics/{name}"
        self._subscription = f"projects/bench/subscriptions/{name}"
        self._body = ready_body()

    async def open(self) -> None:
        self._channel = grpc.aio.insecure_channel(self._endpoint)
        self._publisher = PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=self._channel))
        self._subscriber = SubscriberAsyncClient(
            transport=SubscriberGrpcAsyncIOTransport(channel=self._channel)
        )
        await self._publisher.create_topic(name=self._topic)
        await self._subscriber.create_subscription(
            request={
                "name": self._subscription,
                "topic": self._topic,
                "ack_deadline_seconds": int(LEASE_S),
            }
        )

    async def close(self) -> None:
        await self._subscriber.delete_subscription(subscription=self._subscription)
        await self._publisher.delete_topic(topic=self._topic)
        await self._channel.close()

    async def send(self, n_messages: int, at_once: int) -> None:
        for _ in range(n_messages // at_once):
            messages = [PubsubMessage(data=self._body) for _ in range(at_once)]
            await self._publisher.publish(topic=self._topic, messages=messages)

    async def consume(self, n_messages: int, at_once: int) -> None:
        while n_messages > 0:
            answer = await self._subscriber.pull(
                subscription=self._subscription, max_messages=min(at_once, n_messages), timeout=WAIT_S
            )
            ids = [each.ack_id for each in answer.received_messages]
            for _ in ids:
                self.seen()
            if ids:
                await self._subscriber.acknowledge(subscription=self._subscription, ack_ids=ids)
            n_messages -= len(ids)


class PubSubBench:
    """See `Broker`."""

    name = "pubsub"
    distributions: Sequence[str] = ("google-cloud-pubsub",)
    n_one_by_one = 30
    n_at_once = 300
    max_rounds = 4
    max_probes = 50

    def start(self, stack: ExitStack, directory: Path) -> None:
        from support.pubsub_emulator import PubSubEmulator

        self.server = PubSubEmulator(directory / "pubsub")
        stack.callback(self.server.close)
        self.server.start()

    def backend(self) -> Backend:
        return build_backend("pubsub", self.server.url, namespace=f"bench-{uuid.uuid4().hex[:8]}")

    def bare(self) -> System:
        return Bare(f"127.0.0.1:{self.server.port}")

    def faststream(self) -> None:
        return None
