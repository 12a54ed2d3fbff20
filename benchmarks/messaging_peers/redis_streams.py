"""Redis: one redis-server, AOF everysec."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from benchmarks.messaging_peers.systems import (
    CONCURRENCY,
    LEASE_S,
    PAYLOAD,
    WAIT_S,
    FastStream,
    System,
    nothing,
    ready_body,
)
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.messaging import Backend, build_backend
from pynomaly_tasks.messaging.backends.redis_streams.backend import _SCRIPTS


class Bare:
    """redis-py's asyncio client as it comes: the same scripts with the same arguments, made beforehand."""

    def __init__(self, url: str) -> None:
        self.seen: Callable[[], None] = nothing
        self._redis = Redis.from_url(url)
        self._namespace = f"bare-{uuid.uuid4().hex[:8]}"
        self._entry: list[Any] = ["q", str(uuid.uuid4()), ready_body(), 0, 0, "", "", 0, ""]

    async def open(self) -> None:
        for name in ("put", "take", "settle"):
            await self._redis.script_load(_SCRIPTS[name][0])

    async def close(self) -> None:
        await self._redis.aclose()

    async def send(self, n_messages: int, at_once: int) -> None:
        sha = _SCRIPTS["put"][1]
        for _ in range(n_messages // at_once):
            await self._redis.evalsha(sha, 1, self._namespace, 0, *(self._entry * at_once))

    async def consume(self, n_messages: int, at_once: int) -> None:
        take, settle = _SCRIPTS["take"][1], _SCRIPTS["settle"][1]
        while n_messages > 0:
            n = min(at_once, n_messages)
            answer: Any = await self._redis.evalsha(
                take, 1, self._namespace, 0, "q", "me", n, int(LEASE_S * 1e3), 0
            )
            if len(answer) == 1:
                await self._redis.blpop([f"{self._namespace}:c:q:wake"], timeout=WAIT_S)
                continue
            ends: list[Any] = []
            for at in range(1, len(answer), 6):
                self.seen()
                ends += ["q", answer[at], answer[at + 4], "acknowledged", 10, "", "", 0, 0]
            await self._redis.evalsha(settle, 1, self._namespace, "me", *ends)
            n_messages -= len(answer) // 6


class FastStreamOnStreams(FastStream):
    """XADD; a consumer group, XREADGROUP and XACK. The stream is never trimmed, nobody looks for dead consumers."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._redis = Redis.from_url(url)

    def build(self) -> tuple[Any, Any]:
        from faststream.redis import RedisBroker, StreamSub

        broker = RedisBroker(self._url, logger=None)
        stream = StreamSub(
            self.queue, group="bench", consumer=str(os.getpid()), last_id="0", max_records=10 * CONCURRENCY
        )
        return broker, broker.subscriber(stream=stream, max_workers=CONCURRENCY)

    async def send_one(self) -> None:
        await self.broker.publish(PAYLOAD, stream=self.queue)

    async def send_together(self, n_messages: int) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for _ in range(n_messages):
            await self.broker.publish(PAYLOAD, stream=self.queue, pipeline=pipeline)
        await pipeline.execute()

    async def close(self) -> None:
        await super().close()
        await self._redis.aclose()


class RedisBench:
    """See `Broker`."""

    name = "redis_streams"
    distributions: Sequence[str] = ("redis", "hiredis")
    n_one_by_one = 200
    n_at_once = 1_000
    max_rounds = 100
    max_probes = 1_000

    def start(self, stack: ExitStack, directory: Path) -> None:
        self.url = f"{stack.enter_context(RedisServer(directory)).url}/0"

    def backend(self) -> Backend:
        return build_backend("redis_streams", self.url, namespace="bench")

    def bare(self) -> System:
        return Bare(self.url)

    def faststream(self) -> System:
        return FastStreamOnStreams(self.url)
