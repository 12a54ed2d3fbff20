"""Message queues on MQTT: hosts and consumers that die, a broker that restarts, hangs, forgets or is not there."""

from __future__ import annotations

import asyncio
import time
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
from support.processes import Programs
from support.queue_outages import (
    ConsumedQueue,
    comes,
    is_empty,
    is_held_by,
    outlive_a_holder_of_20,
    outlive_restarts,
)
from support.tcp_proxy import TcpProxy
from support.transport_servers import make_certificates
from support.waiting import wait_until

LEASE_S = 1.0


def _queue(server: Mosquitto, programs: Programs, directory: Path) -> ConsumedQueue:
    return ConsumedQueue("mqtt", server.url, programs, directory)


@pytest.mark.parametrize("host", ["the killed process", "another process"])
async def test_what_a_killed_process_held_is_done_by_the_other_within_the_lease_on_mqtt(
    mosquitto: Mosquitto, programs: Programs, tmp_path: Path, host: str
) -> None:
    queue = _queue(mosquitto, programs, tmp_path)
    async with AsyncExitStack() as stack:
        await queue.fill(40, QueueOptions(lease_s=LEASE_S))
        if host == "another process":
            other = await stack.enter_async_context(queue.manager())
            await other.statistics("q")  # whoever asks first hosts it
        await outlive_a_holder_of_20(queue, lease_s=LEASE_S)


async def test_workers_resume_by_themselves_after_the_mqtt_broker_was_restarted_twice(
    start_mosquitto: Callable[..., Mosquitto], programs: Programs, tmp_path: Path
) -> None:
    server = start_mosquitto()
    queue = _queue(server, programs, tmp_path)
    await queue.fill(1_000, QueueOptions(lease_s=LEASE_S))

    await outlive_restarts(queue, [server.restart] * 2, n_messages=1_000)


async def test_host_that_stands_still_is_replaced(
    mosquitto: Mosquitto, programs: Programs, tmp_path: Path
) -> None:
    queue = _queue(mosquitto, programs, tmp_path)
    async with queue.manager() as manager:
        await manager.create_queue("q", QueueOptions(lease_s=LEASE_S))
        await manager.send_many("q", list(range(30)))
        host = queue.consumer("hold")
        assert await is_held_by(host) == 20
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
        await until(lambda: comes(manager, 1), "the message after the silence", timeout_s=20.0)
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
    queue = _queue(mosquitto, programs, tmp_path)
    await queue.fill(600, QueueOptions(lease_s=LEASE_S, retry=RetryPolicy(max_retries=20)))
    workers = [queue.consumer("worker:0.01") for _ in range(3)]
    for n_done in (60, 150, 250, 350):
        wait_until(lambda n=n_done: len(queue.done()) >= n, 60.0, f"{n_done} to be done")
        workers.pop(0).kill()
        workers.append(queue.consumer("worker:0.01"))
    wait_until(lambda: len(queue.times_done()) == 600, 60.0, "all 600 to be done")
    async with queue.manager() as manager:
        await until(lambda: is_empty(manager), "the queue to be empty", timeout_s=20.0)
        assert await manager.dead_letters.list_letters("q") == []
    # Of each that was killed, what its handlers had done and not acknowledged.
    assert len(queue.done()) <= 600 + 4 * 3


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
