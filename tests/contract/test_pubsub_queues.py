"""Message queues on Pub/Sub: consumers that die, connections that break, and what is the service's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.errors import BrokerUnavailable, InvalidSettings, MessagingClosed
from pynomaly_tasks.messaging import QueueManager, QueueOptions, build_backend
from support.kafka_topics import unique_name
from support.messaging import one, payloads, until
from support.processes import Program, Programs
from support.pubsub_emulator import PubSubEmulator
from support.tcp_proxy import TcpProxy
from support.waiting import wait_until

CONSUMER = Path(__file__).parents[1] / "support" / "queue_consumer.py"
LEASE_S = 2.0
FROM_HERE = {"PYTHONPATH": str(CONSUMER.parents[2])}


class Setup:
    """A namespace of an emulator, processes that consume from it, and what they did."""

    def __init__(self, url: str, programs: Programs, directory: Path) -> None:
        self.url = url
        self.namespace = unique_name("crash")
        self.programs = programs
        self.file = directory / "done"
        self.file.touch()

    def manager(self, **options: float) -> QueueManager:
        return QueueManager(build_backend("pubsub", self.url, namespace=self.namespace, **options))

    def consumer(self, mode: str) -> Program:
        return self.programs.python(
            CONSUMER, "pubsub", self.url, self.namespace, "q", self.file, mode, ready="^ready", env=FROM_HERE
        )

    def done(self) -> list[tuple[int, int]]:
        """Number and attempt of each effect, in order."""
        return [tuple(map(int, line.split(":"))) for line in self.file.read_text().splitlines()]  # type: ignore[misc]


@pytest.mark.pubsub
async def test_what_a_killed_process_held_is_done_by_the_other_within_the_lease_on_pubsub(
    pubsub_emulator: PubSubEmulator, programs: Programs, tmp_path: Path
) -> None:
    setup = Setup(pubsub_emulator.url, programs, tmp_path)
    async with setup.manager() as manager:
        await manager.create_queue("q", QueueOptions(lease_s=LEASE_S))
        await manager.send_many("q", list(range(40)))
        doomed = setup.consumer("hold")
        held = int(doomed.wait_for_output(r"holds (\d+)")[1])
        doomed.kill()
        killed_at = time.monotonic()
        setup.consumer("work")
        wait_until(lambda: len(setup.done()) == 40, 20.0, "all 40 to be done")

        # The other process takes a second or two to start.
        assert time.monotonic() - killed_at < LEASE_S + 6.0
        assert sorted(n for n, _ in setup.done()) == list(range(40))
        assert sorted(attempt for _, attempt in setup.done()) == [1] * (40 - held) + [2] * held
        assert await manager.dead_letters.list_letters("q") == []


@pytest.mark.pubsub
async def test_workers_resume_by_themselves_after_their_connections_to_pubsub_broke(
    pubsub_emulator: PubSubEmulator, tcp_proxy: Callable[[int], TcpProxy], programs: Programs, tmp_path: Path
) -> None:
    proxy = tcp_proxy(pubsub_emulator.port)
    setup = Setup(pubsub_emulator.url.replace(str(pubsub_emulator.port), str(proxy.port)), programs, tmp_path)
    async with setup.manager() as manager:
        await manager.create_queue("q", QueueOptions(lease_s=LEASE_S, retry=RetryPolicy(max_retries=10)))
        await manager.send_many("q", list(range(1_000)))
    workers = [setup.consumer("work"), setup.consumer("worker:0.001")]
    for n_done in (150, 500):
        wait_until(lambda n=n_done: len(setup.done()) >= n, 60.0, f"{n_done} to be done")
        proxy.reset()
    wait_until(lambda: len({n for n, _ in setup.done()}) == 1_000, 60.0, "all 1,000 to be done")

    assert all(worker.is_running() for worker in workers)
    async with setup.manager() as manager:
        assert await manager.dead_letters.list_letters("q") == []


async def test_closed_port_of_pubsub_is_an_error_within_the_connect_timeout() -> None:
    url = f"pubsub://test-project?endpoint=127.0.0.1:{find_free_port()}"
    started = time.monotonic()

    with pytest.raises(BrokerUnavailable, match="no answer"):
        await build_backend("pubsub", url, connect_timeout_s=1.0).open()
    assert time.monotonic() - started < 1.5


@pytest.mark.pubsub
async def test_silent_pubsub_is_an_error_within_the_timeout(
    pubsub_emulator: PubSubEmulator, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(pubsub_emulator.port)
    url = pubsub_emulator.url.replace(str(pubsub_emulator.port), str(proxy.port))
    backend = build_backend("pubsub", url, namespace=unique_name("hang"), timeout_s=1.0)
    async with QueueManager(backend) as manager:
        await manager.create_queue("q")
        await manager.send("q", 1)
        proxy.stall()
        for call in (manager.send("q", 2), manager.receive("q", wait_s=30.0), manager.health()):
            started = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                await call
            assert time.monotonic() - started < 3.0
        proxy.flow()

        async def sees_it() -> bool:
            try:
                return 1 in await payloads(manager, "q", wait_s=0.5)
            except BrokerUnavailable:
                return False

        await until(sees_it, "the message after the silence", timeout_s=30.0)
    with pytest.raises(MessagingClosed):
        await manager.send("q", 3)


@pytest.mark.pubsub
async def test_ordering_keys_keep_the_order_and_wait_for_who_holds_the_first(
    pubsub_emulator: PubSubEmulator,
) -> None:
    backend = build_backend("pubsub", f"{pubsub_emulator.url}&ordering=true", namespace=unique_name("order"))
    async with QueueManager(backend) as manager:
        await manager.create_queue("q")
        for n in range(5):
            await manager.send("q", n)
        first = await one(manager, "q")
        await first.ack()

        assert first.message.payload == 0
        assert await payloads(manager, "q", wait_s=0.3) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "url", ["http://p", "pubsub://", "pubsub://My Project", "pubsub://p-roject?colour=red",
            "pubsub://p-roject?ordering=maybe", "pubsub://p-roject/x"]
)  # fmt: skip
def test_url_that_is_none_of_pubsub_is_refused(url: str) -> None:
    with pytest.raises(InvalidSettings, match=r"messaging\.url"):
        build_backend("pubsub", url)
