"""MQTT 5: Mosquitto from Debian, quality of service 1, sessions that are kept."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.messaging_peers.systems import System, nothing, ready_body
from pynomaly_tasks.messaging import Backend, build_backend


class Bare:
    """aiomqtt: the client acknowledges what it receives, by itself and before anybody handled it; no lease, no count."""

    def __init__(self, port: int) -> None:
        self.seen: Callable[[], None] = nothing
        self._port = port
        self._name = f"bare-{uuid.uuid4().hex[:8]}"
        self._body = ready_body()

    def _client(self, name: str, receive_maximum: int = 65_535) -> aiomqtt.Client:
        properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho has no types here
        properties.SessionExpiryInterval = 3_600
        properties.ReceiveMaximum = receive_maximum
        client = aiomqtt.Client(
            "127.0.0.1", self._port, identifier=name, protocol=aiomqtt.ProtocolVersion.V5, clean_start=False,
            properties=properties,
        )  # fmt: skip
        client.pending_calls_threshold = 1_000  # it would warn
        return client

    async def open(self) -> None:
        self._sender = self._client(f"{self._name}-sender")
        await self._sender.__aenter__()
        async with self._client(self._name) as client:
            await client.subscribe(self._name, qos=1)

    async def close(self) -> None:
        await self._sender.__aexit__(None, None, None)

    async def send(self, n_messages: int, at_once: int) -> None:
        for _ in range(n_messages // at_once):
            if at_once == 1:
                await self._sender.publish(self._name, self._body, qos=1)
            else:
                sends = (self._sender.publish(self._name, self._body, qos=1) for _ in range(at_once))
                await asyncio.gather(*sends)

    async def consume(self, n_messages: int, at_once: int) -> None:
        async with self._client(self._name, receive_maximum=at_once) as client:
            async for _ in client.messages:
                self.seen()
                n_messages -= 1
                if n_messages == 0:
                    return


class MqttBench:
    """See `Broker`."""

    name = "mqtt"
    distributions: Sequence[str] = ("aiomqtt", "paho-mqtt")
    n_one_by_one = 30
    n_at_once = 300
    max_rounds = 100
    max_probes = 1_000

    def start(self, stack: ExitStack, directory: Path) -> None:
        from support.mosquitto import Mosquitto

        self.server = Mosquitto()
        stack.callback(self.server.close)
        self.server.start()

    def backend(self) -> Backend:
        return build_backend("mqtt", self.server.url, namespace=f"bench-{uuid.uuid4().hex[:8]}")

    def bare(self) -> System:
        return Bare(self.server.port)

    def faststream(self) -> None:
        return None
