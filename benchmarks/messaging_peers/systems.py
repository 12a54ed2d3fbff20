"""What is measured: ways to send messages and to take them, all with the same payload."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pynomaly_tasks.messaging import Backend, Message, QueueManager, Worker
from pynomaly_tasks.messaging.backend import Entry, Held, Outcome, Settlement
from pynomaly_tasks.messaging.codec import Codec
from pynomaly_tasks.messaging.session import Session
from pynomaly_tasks.messaging.topology import Topology

PAYLOAD = {"customer": 7, "items": [{"sku": "a-1", "n": 2}, {"sku": "b-2", "n": 1}], "note": "x" * 200}
LEASE_S = 60.0
WAIT_S = 10.0
#: Handlers at once, ours and FastStream's.
CONCURRENCY = 10


def ready_body() -> bytes:
    """The bytes that the library makes of the payload: what a bare client is handed to send."""
    codec = Codec()
    return codec.encode(Message(payload=PAYLOAD), codec.canonical(PAYLOAD))


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one message; the CPU is this process's."""

    wall_s: float
    cpu_s: float


class Meter:
    """What so many messages cost, from the first one to the last."""

    def __init__(self, n_messages: int) -> None:
        self._n_left = self._n = n_messages
        self._started = (0.0, 0.0)
        self._cost = Cost(0.0, 0.0)
        self._done = asyncio.Event()

    def seen(self) -> None:
        """One more came."""
        now = (time.perf_counter(), time.process_time())
        if self._n_left == self._n:
            self._started = now
        self._n_left -= 1
        if self._n_left == 0:
            n = max(1, self._n - 1)
            self._cost = Cost((now[0] - self._started[0]) / n, (now[1] - self._started[1]) / n)
            self._done.set()

    async def wait(self) -> Cost:
        """Until all came."""
        await self._done.wait()
        return self._cost


class System(Protocol):
    """One way to use one broker; each has a queue of its own."""

    #: Called for each message that reached the user's code, before it is acknowledged.
    seen: Callable[[], None]

    async def open(self) -> None:
        """Connect, and make the queue."""

    async def close(self) -> None:
        """Give everything back."""

    async def send(self, n_messages: int, at_once: int) -> None:
        """Send so many, ``at_once`` with each call; returns when the broker has them."""

    async def consume(self, n_messages: int, at_once: int) -> None:
        """Take and acknowledge so many, ``at_once`` with each call, each under a lease; waits for them."""


class Handling(Protocol):
    """A system that calls a handler."""

    async def handle(self, n_messages: int) -> Cost:
        """What it costs from the handler's first call to that of the last, up to `CONCURRENCY` at once."""

    async def rest(self) -> None:
        """Call the handler no more."""


class Broker(Protocol):
    """One broker, and who uses it."""

    name: str
    distributions: Sequence[str]  #: whose versions are printed
    n_one_by_one: int  #: messages of one block, sent one by one; about a tenth of a second
    n_at_once: int  #: messages of one block, sent together
    max_rounds: int  #: and not more, for those that take long
    max_probes: int

    def start(self, stack: ExitStack, directory: Path) -> None:
        """Start the server; ``stack`` ends it."""

    def backend(self) -> Backend:
        """Ours, not open yet."""

    def bare(self) -> System | None:
        """The client library that our backend stands on, doing what the backend does."""

    def faststream(self) -> System | None:
        """FastStream's broker, a `Handling` too, where there is one."""


def nothing() -> None:
    """The handler's work."""


class Library:
    """`QueueManager` and `Worker`: from payload to handler, with everything that they promise."""

    def __init__(self, backend: Backend) -> None:
        self.seen: Callable[[], None] = nothing
        self._manager = QueueManager(backend)
        self._stack = AsyncExitStack()
        self._queue = f"bench-{uuid.uuid4().hex[:8]}"
        self._worker: tuple[Worker, asyncio.Task[None]] | None = None

    async def open(self) -> None:
        await self._stack.enter_async_context(self._manager)
        await self._manager.create_queue(self._queue)

    async def close(self) -> None:
        await self._manager.delete_queue(self._queue)
        await self._stack.aclose()

    async def send(self, n_messages: int, at_once: int) -> None:
        if at_once == 1:
            for _ in range(n_messages):
                await self._manager.send(self._queue, PAYLOAD)
            return
        for _ in range(n_messages // at_once):
            await self._manager.send_many(self._queue, [PAYLOAD] * at_once)

    async def consume(self, n_messages: int, at_once: int) -> None:
        while n_messages > 0:
            deliveries = await self._manager.receive(
                self._queue, max_messages=min(at_once, n_messages), wait_s=WAIT_S, lease_s=LEASE_S
            )
            for _ in deliveries:
                self.seen()
            if len(deliveries) == 1:
                await deliveries[0].ack()
            else:
                await asyncio.gather(*(delivery.ack() for delivery in deliveries))
            n_messages -= len(deliveries)

    async def handle(self, n_messages: int) -> Cost:
        meter = Meter(n_messages)

        async def handler(_: Message) -> None:
            meter.seen()

        worker = Worker(self._manager, [self._queue], concurrency=CONCURRENCY, batch_size=10 * CONCURRENCY)
        worker.add_handler(handler)
        self._worker = worker, asyncio.create_task(worker.run(handle_signals=False))
        return await meter.wait()

    async def rest(self) -> None:
        assert self._worker is not None
        worker, task = self._worker
        worker.stop()
        await task


class BackendAlone:
    """Our backend with ready bytes: the same commands as the bare client's, without codec and manager."""

    def __init__(self, backend: Backend) -> None:
        self.seen: Callable[[], None] = nothing
        self._backend = backend
        self._session = Session(backend, Codec())  # reads the catalog again when it changed
        self._channel = f"bench-{uuid.uuid4().hex[:8]}"
        self._entry = Entry(channel=self._channel, message_id=uuid.uuid4().hex, body=ready_body())

    async def open(self) -> None:
        await self._backend.open()
        # A backend may make places for what the catalog names, and only for that.
        await QueueManager(self._backend).create_queue(self._channel)

    async def close(self) -> None:
        await self._backend.forget(f"queue/{self._channel}")
        await self._backend.erase(self._channel)
        await self._backend.close()

    async def send(self, n_messages: int, at_once: int) -> None:
        for _ in range(n_messages // at_once):
            await self._session.act(partial(self._put, [self._entry] * at_once))

    async def _put(self, entries: list[Entry], topology: Topology) -> None:
        await self._backend.put(entries, catalog_version=topology.version)

    async def _take(self, n_messages: int, topology: Topology) -> list[Held]:
        return await self._backend.take(
            self._channel, max_entries=n_messages, lease_s=LEASE_S, wait_s=WAIT_S,
            catalog_version=topology.version,
        )  # fmt: skip

    async def consume(self, n_messages: int, at_once: int) -> None:
        while n_messages > 0:
            held = await self._session.act(partial(self._take, min(at_once, n_messages)))
            for _ in held:
                self.seen()
            await self._backend.settle([Settlement(held=each, outcome=Outcome.ACKNOWLEDGED) for each in held])
            n_messages -= len(held)


class FastStream:
    """What its brokers have in common; each says how to make one, how to send, and how to take."""

    def __init__(self) -> None:
        self.seen: Callable[[], None] = nothing
        self.queue = f"bench-{uuid.uuid4().hex[:8]}"
        self.broker: Any = None
        self.subscriber: Any = None
        self._meter = Meter(0)
        self._is_running = False

    def build(self) -> tuple[Any, Any]:
        """The broker, and its subscriber to the queue, up to `CONCURRENCY` at once where it can."""
        raise NotImplementedError

    async def send_one(self) -> None:
        """One message."""
        raise NotImplementedError

    async def send_together(self, n_messages: int) -> None:
        """So many in one round trip, or as near to that as it comes."""
        raise NotImplementedError

    async def open(self) -> None:
        self.broker, self.subscriber = self.build()

        @self.subscriber
        async def handler(_: dict[str, Any]) -> None:
            self.seen()
            self._meter.seen()

        # What has no reader yet may be lost: the first start makes the queue.
        await self.broker.start()
        await self.subscriber.stop()

    async def close(self) -> None:
        await self.broker.stop()

    async def send(self, n_messages: int, at_once: int) -> None:
        if at_once == 1:
            for _ in range(n_messages):
                await self.send_one()
            return
        for _ in range(n_messages // at_once):
            await self.send_together(at_once)

    async def consume(self, n_messages: int, at_once: int) -> None:
        """It calls handlers, and hands out nothing to take: as `handle`, whatever ``at_once``."""
        await self.handle(n_messages)

    async def handle(self, n_messages: int) -> Cost:
        self._meter = Meter(n_messages)
        if not self._is_running:
            self._is_running = True
            await self.subscriber.start()
        return await self._meter.wait()

    async def rest(self) -> None:
        self._is_running = False
        await self.subscriber.stop()
