"""Message queues on MQTT: hosts and consumers that die, a broker that restarts, hangs, forgets or is not there."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiomqtt
import pytest
from aiomqtt.client import ProtocolVersion

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.errors import BrokerUnavailable, InvalidSettings, MessagingClosed, QueueExists
from pynomaly_tasks.messaging import QueueManager, QueueOptions, Reason, build_backend
from support.kafka_topics import unique_name
from support.messaging import one, payloads, until
from support.mosquitto import Mosquitto
from support.processes import Program, Programs
from support.tcp_proxy import TcpProxy
from support.transport_servers import make_certificates
from support.waiting import wait_until

CONSUMER = Path(__file__).parents[1] / "support" / "queue_consumer.py"
LEASE_S = 1.0
FROM_HERE = {"PYTHONPATH": str(CONSUMER.parents[2])}


class Setup:
    """A namespace of a broker, processes that consume from it, and what they did."""

    def __init__(self, server: Mosquitto, programs: Programs, directory: Path) -> None:
        self.url = server.url
        self.namespace = unique_name("crash")
        self.programs = programs
        self.file = directory / "done"
        self.file.touch()

    def manager(self, **options: float) -> QueueManager:
        return QueueManager(build_backend("mqtt", self.url, namespace=self.namespace, **options))

    def consumer(self, mode: str) -> Program:
        return self.programs.python(
            CONSUMER, "mqtt", self.url, self.namespace, "q", self.file, mode, ready="^ready", env=FROM_HERE
        )

    def done(self) -> list[tuple[int, int]]:
        """Number and attempt of each effect, in order."""
        return [tuple(map(int, line.split(":"))) for line in self.file.read_text().splitlines()]  # type: ignore[misc]


async def _is_empty(manager: QueueManager) -> bool:
    return (await manager.statistics("q")).measure.depth == 0


@pytest.mark.parametrize("host", ["the killed process", "another process"])
async def test_what_a_killed_process_held_is_done_by_the_other_within_the_lease_on_mqtt(
    mosquitto: Mosquitto, programs: Programs, tmp_path: Path, host: str
) -> None:
    setup = Setup(mosquitto, programs, tmp_path)
    async with setup.manager() as manager:
        await manager.create_queue("q", QueueOptions(lease_s=LEASE_S))
        await manager.send_many("q", list(range(40)))
        if host == "another process":
            await manager.statistics("q")  # whoever asks first hosts it
        doomed = setup.consumer("hold")

        async def says(words: str) -> bool:
            return words in doomed.output()

        await until(lambda: says("holds 20"), "20 to be held")
        doomed.kill()
        killed_at = time.monotonic()
        setup.consumer("work")

        async def are_done() -> bool:
            return len(setup.done()) == 40

        await until(are_done, "all 40 to be done", timeout_s=20.0)
        took_s = time.monotonic() - killed_at
        await until(lambda: _is_empty(manager), "the queue to be empty")

        # The other process takes a second to start.
        assert took_s < LEASE_S + 5.0
        assert sorted(setup.done()) == [(n, 2) for n in range(20)] + [(n, 1) for n in range(20, 40)]
        assert await manager.dead_letters.list_letters("q") == []


async def test_workers_resume_by_themselves_after_the_mqtt_broker_was_restarted_twice(
    start_mosquitto: Callable[..., Mosquitto], programs: Programs, tmp_path: Path
) -> None:
    server = start_mosquitto()
    setup = Setup(server, programs, tmp_path)
    async with setup.manager() as manager:
        await manager.create_queue("q", QueueOptions(lease_s=LEASE_S))
        await manager.send_many("q", list(range(1_000)))
    workers = [setup.consumer("work"), setup.consumer("worker:0.001")]
    for n_done in (150, 500):
        wait_until(lambda n=n_done: len(setup.done()) >= n, 60.0, f"{n_done} to be done")
        server.restart()
    wait_until(lambda: len({n for n, _ in setup.done()}) == 1_000, 60.0, "all 1,000 to be done")
    async with setup.manager() as manager:
        await until(lambda: _is_empty(manager), "the queue to be empty", timeout_s=20.0)
        assert await manager.dead_letters.list_letters("q") == []
    n_twice = sum(times > 1 for times in Counter(n for n, _ in setup.done()).values())

    # What was held when the broker went, at most, in each of the two restarts.
    assert n_twice <= 2 * (20 + 5 + 3)
    assert all(worker.is_running() for worker in workers)
    workers[1].signal_group(signal.SIGTERM)
    wait_until(lambda: not workers[1].is_running(), 10.0, "the worker to end")
    assert workers[1].returncode == 0


async def test_host_that_stands_still_is_replaced(
    mosquitto: Mosquitto, programs: Programs, tmp_path: Path
) -> None:
    setup = Setup(mosquitto, programs, tmp_path)
    async with setup.manager() as manager:
        await manager.create_queue("q", QueueOptions(lease_s=LEASE_S))
        await manager.send_many("q", list(range(30)))
        host = setup.consumer("hold")

        async def holds() -> bool:
            return "holds 20" in host.output()

        await until(holds, "20 to be held")
        host.pause()
        try:
            found: list[int] = []

            async def has_all() -> bool:
                found.extend(await payloads(manager, "q", wait_s=0.5))
                return len(found) >= 30

            await until(has_all, "another host to hand out everything", timeout_s=30.0)
            assert sorted(found) == list(range(30))
        finally:
            host.resume()


async def test_who_holds_what_is_known_after_a_restart_of_the_mqtt_broker(
    start_mosquitto: Callable[..., Mosquitto],
) -> None:
    server = start_mosquitto()
    holder = QueueManager(build_backend("mqtt", server.url))
    other = QueueManager(build_backend("mqtt", server.url))
    async with holder, other:
        await holder.create_queue("q", QueueOptions(lease_s=60.0))
        await holder.send_many("q", list(range(10)))
        held = await holder.receive("q", max_messages=3)
        # A broker that is told to end leaves what it has not read: an answer says that it has.
        assert (await holder.statistics("q")).measure.in_flight == 3
        server.restart()

        async def received() -> list[int]:
            try:
                return await payloads(other, "q")
            except BrokerUnavailable:
                return []

        assert await until(received, "the others to come") == list(range(3, 10))
        for delivery in held:
            await delivery.ack()
        assert (await other.statistics("q")).measure.depth == 0


async def test_closed_port_of_an_mqtt_broker_is_an_error_within_the_connect_timeout() -> None:
    url = f"mqtt://user:hush@127.0.0.1:{find_free_port()}"
    backend = build_backend("mqtt", url, connect_timeout_s=1.0)
    started = time.monotonic()

    with pytest.raises(BrokerUnavailable, match="no answer") as caught:
        await backend.open()
    assert time.monotonic() - started < 1.5
    assert "hush" not in str(caught.value)


async def test_mqtt_broker_that_is_silent_is_an_error_within_the_timeout(
    mosquitto: Mosquitto, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(mosquitto.port)
    url = f"mqtt://127.0.0.1:{proxy.port}"
    backend = build_backend("mqtt", url, namespace=unique_name("hang"), connect_timeout_s=1.0, timeout_s=1.0)
    async with QueueManager(backend) as manager:
        await manager.create_queue("q")
        await manager.send("q", 1)
        await (await one(manager, "q")).give_back()
        proxy.stall()
        for call in (manager.send("q", 2), manager.health()):
            started = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                await call
            assert time.monotonic() - started < 4.0
        proxy.flow()

        async def sees_it() -> bool:
            try:
                return 1 in await payloads(manager, "q", wait_s=0.5)
            except BrokerUnavailable:
                return False

        await until(sees_it, "the message after the silence", timeout_s=20.0)
    with pytest.raises(MessagingClosed):
        await manager.send("q", 3)


async def test_broker_that_drops_what_a_sleeping_session_gets_is_refused(
    start_mosquitto: Callable[..., Mosquitto],
) -> None:
    server = start_mosquitto(keeps_all=False)
    async with QueueManager(build_backend("mqtt", server.url)) as manager:
        await manager.create_queue("q")
        with pytest.raises(BrokerUnavailable, match=r"kept 1,0\d\d of .* set max_queued_messages to 0"):
            await manager.send("q", 1)


async def test_user_and_password_are_asked_for(start_mosquitto: Callable[..., Mosquitto]) -> None:
    server = start_mosquitto(password="hush")
    async with QueueManager(build_backend("mqtt", f"{server.url}?qos=2")) as manager:
        await manager.create_queue("q")
        await manager.send_many("q", list(range(100)))
        assert await payloads(manager, "q") == list(range(100))
    wrong = build_backend("mqtt", server.url.replace("hush", "hush2"))
    with pytest.raises(BrokerUnavailable) as caught:
        await wrong.open()
    assert "Not authorized" in str(caught.value)
    assert "hush" not in str(caught.value)


async def test_tls_is_checked_against_the_authority_that_the_url_names(
    start_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    certificates = make_certificates(tmp_path)
    server = start_mosquitto(certificates=certificates)
    url = f"{server.url}?ca_file={certificates.authority}"
    async with QueueManager(build_backend("mqtt", url)) as manager:
        await manager.create_queue("q")
        await manager.send_many("q", ["x" * 100_000] * 20)
        assert len(await payloads(manager, "q")) == 20
    with pytest.raises(BrokerUnavailable, match="certificate verify failed"):
        await build_backend("mqtt", server.url).open()
    with pytest.raises(InvalidSettings, match="cannot be read"):
        await build_backend("mqtt", f"{server.url}?ca_file=/none").open()


async def test_bytes_that_another_program_published_are_dead_letters_and_stop_nobody(
    mosquitto: Mosquitto,
) -> None:
    namespace = unique_name("foreign")
    bodies = [b"", b"\xff\xfe", b"[1, 2", b"\x9fpm\x01", b"null"]
    async with QueueManager(build_backend("mqtt", mosquitto.url, namespace=namespace)) as manager:
        await manager.create_queue("q")
        await manager.send("q", "before")
        async with aiomqtt.Client("127.0.0.1", mosquitto.port, protocol=ProtocolVersion.V5) as stranger:
            for body in bodies:
                await stranger.publish(f"{namespace}/lane/q", body, qos=1)
            await stranger.publish(f"{namespace}/ask/q", b"\xff", qos=1)
            await stranger.publish(f"{namespace}/held/q/x", b"\xff", qos=1, retain=True)
        await manager.send("q", "after")

        assert await payloads(manager, "q") == ["before", "after"]
        letters = await manager.dead_letters.list_letters("q")
        assert [(letter.raw, letter.reason) for letter in letters] == [
            (body, Reason.UNREADABLE) for body in bodies
        ]


async def test_queue_declared_by_many_at_once_has_one_set_of_options(mosquitto: Mosquitto) -> None:
    namespace = unique_name("race")
    managers = [QueueManager(build_backend("mqtt", mosquitto.url, namespace=namespace)) for _ in range(6)]

    async def create(n: int) -> int | None:
        try:
            await managers[n].create_queue("q", QueueOptions(lease_s=10.0 + n))
        except QueueExists:
            return None
        return n

    async with AsyncExitStack() as stack:
        for manager in managers:
            await stack.enter_async_context(manager)
        made = [n for n in await asyncio.gather(*(create(n) for n in range(6))) if n is not None]

        assert len(made) == 1
        for manager in managers:
            assert await manager.list_queues() == {"q": QueueOptions(lease_s=10.0 + made[0])}


async def test_more_messages_than_a_host_has_in_memory_come_in_order(mosquitto: Mosquitto) -> None:
    backend = build_backend("mqtt", f"{mosquitto.url}?window=100", namespace=unique_name("window"))
    async with QueueManager(backend) as manager:
        await manager.create_queue("q")
        await manager.send_many("q", list(range(350)))

        assert (await manager.statistics("q")).measure.depth == 100
        assert await payloads(manager, "q") == list(range(350))


async def test_nothing_is_lost_when_hosts_are_killed_again_and_again(
    mosquitto: Mosquitto, programs: Programs, tmp_path: Path
) -> None:
    setup = Setup(mosquitto, programs, tmp_path)
    async with setup.manager() as manager:
        await manager.create_queue("q", QueueOptions(lease_s=LEASE_S, retry=RetryPolicy(max_retries=20)))
        await manager.send_many("q", list(range(600)))
    workers = [setup.consumer("worker:0.01") for _ in range(3)]
    for n_done in (60, 150, 250, 350):
        wait_until(lambda n=n_done: len(setup.done()) >= n, 60.0, f"{n_done} to be done")
        workers.pop(0).kill()
        workers.append(setup.consumer("worker:0.01"))
    wait_until(lambda: len({n for n, _ in setup.done()}) == 600, 60.0, "all 600 to be done")
    async with setup.manager() as manager:
        await until(lambda: _is_empty(manager), "the queue to be empty", timeout_s=20.0)
        assert await manager.dead_letters.list_letters("q") == []
    # Of each that was killed, what its handlers had done and not acknowledged.
    assert len(setup.done()) <= 600 + 4 * 3


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "mqtt://",
        "mqtt://h:port",
        "mqtt://h?qos=0",
        "mqtt://h?colour=red",
        "mqtt://h?window=7",
        "mqtt://h?ca_file=/x",
        "mqtts://h?window=x",
        "nonsense",
    ],
)
def test_url_that_is_none_of_an_mqtt_broker_is_refused(url: str) -> None:
    with pytest.raises(InvalidSettings, match=r"messaging\.url"):
        build_backend("mqtt", url)
