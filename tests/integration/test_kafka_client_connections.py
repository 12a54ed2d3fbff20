"""Whatever becomes of a connection to Kafka, in the end nothing of it is left open."""

from __future__ import annotations

import asyncio
import gc
import logging
import ssl
import warnings
from collections.abc import Awaitable, Callable, Collection, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiokafka.client import ConnectionGroup
from aiokafka.errors import RequestTimedOutError
from aiokafka.protocol.metadata import MetadataRequest, MetadataResponse_v1

from pynomaly_tasks.errors import BrokerUnavailable, EventLogUnavailable
from pynomaly_tasks.events.kafka.admin import KafkaAdmin
from pynomaly_tasks.events.kafka.connection import KafkaConnection
from pynomaly_tasks.events.kafka.consumer import KafkaConsumer
from pynomaly_tasks.events.kafka.producer import KafkaProducer
from pynomaly_tasks.events.kafka.reader import KafkaReader
from pynomaly_tasks.events.ports import Partition
from pynomaly_tasks.kafka_client.clients import build_admin, build_consumer
from pynomaly_tasks.kafka_client.producing import ProducerClient
from pynomaly_tasks.messaging import build_backend
from support.kafka_listener import METADATA, VERSIONS, KafkaListener
from support.tcp_proxy import TcpProxy
from support.transport_servers import Certificates, make_certificates

NODE = 1


def left_open_by(scenario: Coroutine[Any, Any, None]) -> list[str]:
    """What Python finds unclosed after the scenario, and after its loop."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", ResourceWarning)
        asyncio.run(asyncio.wait_for(scenario, 30.0))
        gc.collect()
    return [str(warning.message) for warning in found]


async def connected(listener: KafkaListener, **options: Any) -> Any:
    """aiokafka's client below a started admin client."""
    admin = build_admin(bootstrap_servers=listener.address, **options)
    await admin.start()
    assert await admin._client.ready(NODE)
    return admin._client


def test_nothing_is_left_of_a_connection_that_a_broker_ended_which_nobody_counts_in_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # pytest keeps what is logged, here an error, and with its traceback all that was at hand.
    monkeypatch.setattr(logging.getLogger("aiokafka"), "disabled", True)

    async def scenario() -> None:
        async with KafkaListener() as listener:
            client = await connected(listener)
            client.cluster.update_metadata(
                MetadataResponse_v1([(2, "127.0.0.1", listener.port, None)], 2, [])
            )
            leaving = asyncio.create_task(listener.leave())
            # Seen in the very turn in which its end came, before the task that reads from it has its turn.
            while all(connection.connected() for connection in client._conns.values()):
                await asyncio.sleep(0)
            assert not await client.ready(NODE)
            await leaving
            await client.close()

    assert left_open_by(scenario()) == []


def admin_client(address: str) -> tuple[Awaitable[Any], Callable[[], Awaitable[None]]]:
    admin = build_admin(bootstrap_servers=address)
    return admin.start(), lambda: admin._client.close()


def consumer_client(address: str) -> tuple[Awaitable[Any], Callable[[], Awaitable[None]]]:
    consumer = build_consumer(bootstrap_servers=address)
    return consumer.start(), consumer.stop


def producer_client(address: str) -> tuple[Awaitable[Any], Callable[[], Awaitable[None]]]:
    producer = ProducerClient(bootstrap_servers=address)
    return producer.start(), producer.abandon


@pytest.mark.parametrize("held", [METADATA, VERSIONS])
@pytest.mark.parametrize("build", [admin_client, consumer_client, producer_client])
def test_nothing_is_left_of_a_client_whose_start_was_cancelled(build: Any, held: int) -> None:
    async def scenario() -> None:
        async with KafkaListener(held) as listener:
            start, close = build(listener.address)
            starting = asyncio.ensure_future(start)
            await listener.asked(held)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
            await close()

    assert left_open_by(scenario()) == []


@pytest.mark.parametrize("is_open", [False, True])
def test_nothing_is_left_of_a_connection_that_was_being_made_while_its_client_was_closed(
    is_open: bool,
) -> None:
    async def scenario() -> None:
        async with KafkaListener() as listener:
            client = await connected(listener)
            client._conns[NODE, ConnectionGroup.DEFAULT].close()
            listener.hold(VERSIONS)
            connecting = asyncio.create_task(client.ready(NODE))
            if is_open:
                await listener.asked(VERSIONS)
            else:
                await asyncio.sleep(0)
            await client.close()
            await listener.answer_all()

            assert not await connecting

    assert left_open_by(scenario()) == []


def test_nothing_is_left_of_a_connection_whose_other_side_reads_no_more() -> None:
    async def scenario() -> None:
        async with KafkaListener() as listener:
            client = await connected(listener, request_timeout_ms=200)
            (connection,) = client._conns.values()
            socket = connection._writer.get_extra_info("socket")
            listener.read_no_more()
            large = MetadataRequest(["x" * 30_000] * 1_000)
            with pytest.raises(RequestTimedOutError):
                await client.send(NODE, large)
            await client.close()
            await client.close()
            await asyncio.sleep(0)

            assert socket.fileno() == -1

    assert left_open_by(scenario()) == []


class NothingAssigned:
    async def revoked(self, partitions: Collection[Partition]) -> None:
        raise AssertionError(f"{partitions} were never given")


def admin(address: str) -> Awaitable[Any]:
    return KafkaAdmin(KafkaConnection(bootstrap_servers=address), timeout_s=0.4).compare([])


def reader(address: str) -> Awaitable[Any]:
    return KafkaReader(KafkaConnection(bootstrap_servers=address), timeout_s=0.4).lag("g", ["t"])


def consumer(address: str) -> Awaitable[Any]:
    connection = KafkaConnection(bootstrap_servers=address)
    return KafkaConsumer(connection, group="g", topics=["t"], timeout_s=0.4).start(NothingAssigned())


async def producer(address: str) -> None:
    log = KafkaProducer(KafkaConnection(bootstrap_servers=address), timeout_s=0.4)
    try:
        await log.start()
    finally:
        await log.stop()


def queues(address: str) -> Awaitable[Any]:
    return build_backend("kafka", f"kafka://{address}", connect_timeout_s=0.4).open()


@pytest.mark.parametrize("held", [METADATA, VERSIONS])
@pytest.mark.parametrize("use", [admin, reader, consumer, producer, queues])
def test_nothing_is_left_of_what_a_silent_kafka_was_asked(use: Any, held: int) -> None:
    async def scenario() -> None:
        async with KafkaListener(held) as listener:
            with pytest.raises((EventLogUnavailable, BrokerUnavailable), match="answer"):
                await use(listener.address)

    assert left_open_by(scenario()) == []


def tls_of(files: Certificates) -> ssl.SSLContext:
    """A server's."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    return context


def test_nothing_is_left_of_a_connection_whose_making_was_cancelled_at_its_very_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    files = make_certificates(tmp_path)

    async def connect(proxy: TcpProxy) -> None:
        admin = build_admin(
            bootstrap_servers=f"127.0.0.1:{proxy.port}",
            security_protocol="SSL",
            ssl_context=ssl.create_default_context(cafile=files.authority),
        )
        starting = asyncio.create_task(admin.start())
        loop, connection_made = asyncio.get_running_loop(), asyncio.StreamReaderProtocol.connection_made

        def and_cancel(protocol: asyncio.StreamReaderProtocol, transport: asyncio.BaseTransport) -> None:
            connection_made(protocol, transport)
            if asyncio.get_running_loop() is loop:
                proxy.stall()  # nobody answers when TLS takes its leave
                starting.cancel()

        monkeypatch.setattr(asyncio.StreamReaderProtocol, "connection_made", and_cancel)
        with pytest.raises(asyncio.CancelledError):
            await starting
        monkeypatch.undo()
        await admin._client.close()

    async def scenario() -> None:
        async with KafkaListener(tls=tls_of(files)) as listener:
            proxy = tcp_proxy(listener.port)
            # In a loop of its own, which ends while the broker is there.
            await asyncio.to_thread(asyncio.run, connect(proxy))
            gc.collect()
            proxy.reset()

    assert left_open_by(scenario()) == []


def test_nothing_is_left_of_the_question_why_a_broker_behind_tls_is_silent(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)

    async def ask(address: str) -> str | None:
        connection = KafkaConnection(
            bootstrap_servers=address, security_protocol="SSL", ssl_ca_file=files.authority
        )
        return str(await connection.explain(TimeoutError(), 0.5))

    async def scenario() -> None:
        async with KafkaListener(METADATA, tls=tls_of(files)) as listener:
            # In a loop of its own, which ends while the broker still hangs.
            asking = asyncio.create_task(asyncio.to_thread(asyncio.run, ask(listener.address)))
            await listener.asked(METADATA)
            listener.read_no_more()
            assert "does not answer" in str(await asking)
            gc.collect()

    assert left_open_by(scenario()) == []


def test_connection_behind_tls_that_is_closed_more_than_once_is_ended(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)

    async def scenario() -> None:
        async with KafkaListener(tls=tls_of(files)) as listener:
            client = await connected(
                listener,
                security_protocol="SSL",
                ssl_context=ssl.create_default_context(cafile=files.authority),
            )
            for connection in client._held:
                connection._writer.close()
                connection._writer.close()
            await client.close()

    assert left_open_by(scenario()) == []
