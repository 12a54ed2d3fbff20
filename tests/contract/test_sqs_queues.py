"""Message queues on SQS: what is its own, and what becomes of messages when processes and connections die."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.errors import BrokerUnavailable, InvalidMessage, InvalidSettings
from pynomaly_tasks.messaging import Kind, Message, QueueManager, QueueOptions, Reason, Worker, build_backend
from pynomaly_tasks.messaging.backends.sqs.broker import SqsBroker
from pynomaly_tasks.messaging.backends.sqs.catalog import SqsCatalog
from pynomaly_tasks.messaging.backends.sqs.connection import SqsAddress, SqsConnection
from pynomaly_tasks.messaging.backends.sqs.items import MAX_MESSAGE_BYTES, data_of, to_message
from pynomaly_tasks.messaging.backends.sqs.lanes import queue_name, queue_prefix
from pynomaly_tasks.messaging.plain_broker import LaneGone
from support.kafka_topics import unique_name
from support.messaging import one, payloads, until
from support.processes import Programs
from support.queue_outages import ConsumedQueue, is_empty, outlive_a_holder
from support.sqs import SqsServer
from support.tcp_proxy import TcpProxy

AT_ONCE = RetryPolicy(max_retries=3, backoff_s=0.0)


def _manager(url: str, namespace: str, **options: float) -> QueueManager:
    return QueueManager(build_backend("sqs", url, namespace=namespace, **options))


async def _connection(server: SqsServer) -> SqsConnection:
    connection = SqsConnection(SqsAddress.read(server.url), connect_timeout_s=2.0, timeout_s=10.0)
    await connection.open()
    return connection


async def test_fifo_queue_hands_out_in_strict_order_to_one_consumer_at_a_time(sqs_server: SqsServer) -> None:
    url, namespace = f"{sqs_server.url}&fifo=true", unique_name("test")
    async with _manager(url, namespace) as first, _manager(url, namespace) as second:
        await first.create_queue("q", QueueOptions(retry=AT_ONCE))
        await first.send_many("q", list(range(12)))
        held = await first.receive("q", max_messages=5)

        assert [each.message.payload for each in held] == [0, 1, 2, 3, 4]
        assert await second.receive("q", max_messages=5) == []
        await held[0].ack()
        for each in reversed(held[1:]):
            await each.nack("not now")
        again = await second.receive("q", max_messages=2)
        assert [(each.message.payload, each.attempt) for each in again] == [(1, 2), (2, 2)]
        for each in again:
            await each.ack()
        assert await payloads(first, "q", wait_s=1.0) == list(range(3, 12))


async def test_fifo_queues_have_delay_priorities_and_dead_letters_too(sqs_server: SqsServer) -> None:
    async with _manager(f"{sqs_server.url}&fifo=true", unique_name("test")) as manager:
        await manager.create_queue("q", QueueOptions(kind=Kind.PRIORITY))
        sent_at = time.monotonic()
        await manager.send("q", "later", delay_s=0.5)
        await manager.send("q", "low")
        await manager.send("q", "high", priority=9)
        high = await one(manager, "q")
        await high.reject("never")
        assert high.message.payload == "high"
        low = await one(manager, "q")
        await low.ack()
        later = await one(manager, "q")
        await later.ack()

        assert (low.message.payload, later.message.payload) == ("low", "later")
        assert time.monotonic() - sent_at >= 0.5
        (letter,) = await manager.dead_letters.list_letters("q")
        await manager.dead_letters.redrive("q", letter.id)
        assert (await one(manager, "q")).message.payload == "high"


async def test_what_a_killed_process_held_is_done_by_the_other_within_the_lease_on_sqs(
    sqs_server: SqsServer, programs: Programs, tmp_path: Path
) -> None:
    queue = ConsumedQueue("sqs", sqs_server.url, programs, tmp_path)
    await queue.fill(40, QueueOptions(lease_s=2.0))
    n_held, took_s = await outlive_a_holder(queue, n_messages=40)

    # The other process takes a second or two to start.
    assert (n_held, took_s < 2.0 + 8.0) == (20, True)
    assert sorted(queue.done()) == [(n, 2) for n in range(20)] + [(n, 1) for n in range(20, 40)]
    async with queue.manager() as manager:
        await until(lambda: is_empty(manager), "the queue to be empty")
        assert await manager.dead_letters.list_letters("q") == []


async def test_worker_resumes_by_itself_after_sqs_could_not_be_reached(
    sqs_server: SqsServer, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy, namespace = tcp_proxy(sqs_server.port), unique_name("away")
    done: list[int] = []

    async def work(message: Message) -> None:
        done.append(message.payload)

    through = sqs_server.url.replace(str(sqs_server.port), str(proxy.port))
    async with (
        _manager(sqs_server.url, namespace) as manager,
        _manager(through, namespace, timeout_s=2.0) as cut_off,
    ):
        await manager.create_queue("q", QueueOptions(lease_s=2.0, retry=RetryPolicy(max_retries=10)))
        await manager.send_many("q", list(range(200)))
        worker = Worker(cut_off, ["q"])
        worker.add_handler(work)
        running = asyncio.create_task(worker.run(handle_signals=False))
        for n_done in (30, 90):

            async def are_done(n: int = n_done) -> bool:
                return len(done) >= n

            await until(are_done, f"{n_done} to be done", timeout_s=30.0)
            proxy.refuse()
            with pytest.raises(BrokerUnavailable):
                await cut_off.send("q", "never")
            proxy.flow()
        await until(lambda: is_empty(manager), "the queue to be empty", timeout_s=40.0)
        worker.stop()
        await asyncio.wait_for(running, 10.0)

        assert set(done) == set(range(200))
        # What was done and could not be acknowledged is done again, once.
        assert len(done) - 200 <= 2 * 2 * 10
        assert await manager.dead_letters.list_letters("q") == []


async def test_closed_port_is_an_error_within_the_connect_timeout_on_sqs() -> None:
    url = f"sqs://key:hush@us-east-1?endpoint=http://127.0.0.1:{find_free_port()}"
    started = time.monotonic()

    with pytest.raises(BrokerUnavailable, match="gave no answer") as caught:
        await _manager(url, "test", connect_timeout_s=1.0).backend.open()
    assert time.monotonic() - started < 2.5
    assert "hush" not in str(caught.value)


async def test_silent_sqs_is_an_error_within_the_timeout(
    sqs_server: SqsServer, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(sqs_server.port)
    through = sqs_server.url.replace(str(sqs_server.port), str(proxy.port))
    async with _manager(through, unique_name("test"), timeout_s=0.7) as manager:
        await manager.create_queue("q")
        proxy.stall()
        started = time.monotonic()
        for call in (manager.send("q", 2), manager.receive("q", wait_s=30.0)):
            with pytest.raises(BrokerUnavailable, match="in time"):
                await call
        assert time.monotonic() - started < 5.0
        proxy.flow()


async def test_missing_credentials_are_said_with_where_they_go(
    sqs_server: SqsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    with pytest.raises(BrokerUnavailable, match="no AWS credentials: set AWS_ACCESS_KEY_ID"):
        await _manager(f"sqs://us-east-1?endpoint=http://127.0.0.1:{sqs_server.port}", "test").backend.open()


@pytest.mark.parametrize(
    "url",
    ["", "redis://localhost", "sqs://", "sqs://a/b", "sqs://a?colour=red", "sqs://k:hush@a?fifo=perhaps"],
)
def test_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidSettings, match=r"messaging\.url") as caught:
        build_backend("sqs", url)
    assert "hush" not in str(caught.value)


async def test_message_of_a_plain_client_is_a_dead_letter_with_its_bytes(sqs_server: SqsServer) -> None:
    namespace = unique_name("test")
    connection = await _connection(sqs_server)
    async with _manager(sqs_server.url, namespace) as manager:
        await manager.create_queue("q")
        await manager.send("q", "fine")
        prefix = f"{queue_prefix(namespace)}q-"
        (url,) = (await connection.call("list_queues", QueueNamePrefix=prefix))["QueueUrls"]
        body = "not ours: ü € \u2028"
        await connection.call("send_message", QueueUrl=url, MessageBody=body)

        assert await payloads(manager, "q") == ["fine"]
        (letter,) = await manager.dead_letters.list_letters("q")
        assert (letter.raw, letter.reason) == (body.encode(), Reason.UNREADABLE)
    await connection.close()


async def test_largest_message_fits_among_the_dead_letters_and_comes_back(sqs_server: SqsServer) -> None:
    noise = (
        "".join(chr(33 + (n * n * 7 + n * 31) % 90) for n in range(999_000))
        .replace('"', "a")
        .replace("\\", "b")
    )
    async with _manager(sqs_server.url, unique_name("test")) as manager:
        await manager.create_queue("q")
        await manager.send("q", noise)
        await (await one(manager, "q")).reject("no")
        (letter,) = await manager.dead_letters.list_letters("q")
        await manager.dead_letters.redrive("q", letter.id)

        assert (await one(manager, "q")).message.payload == noise


async def test_item_that_fits_in_no_message_is_refused() -> None:
    with pytest.raises(InvalidMessage, match=f"SQS takes {MAX_MESSAGE_BYTES:,}"):
        to_message(os.urandom(MAX_MESSAGE_BYTES))


@given(st.binary(max_size=200))
def test_item_comes_out_of_a_message_as_it_went_in(data: bytes) -> None:
    entry, n_bytes = to_message(data)

    assert data_of({"Body": entry["MessageBody"], "MessageAttributes": entry["MessageAttributes"]}) == data
    assert n_bytes >= len(data)


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=128),
    st.text(max_size=140),
)
def test_every_namespace_and_lane_has_a_name_that_sqs_takes(namespace: str, lane: str) -> None:
    name = queue_name(queue_prefix(namespace), lane, "0123456789")

    assert re.fullmatch(r"[A-Za-z0-9_-]{1,75}", name)
    assert name.endswith("-0123456789")


async def test_long_poll_of_an_erased_queue_does_not_hide_the_one_made_after_it(
    sqs_server: SqsServer,
) -> None:
    broker = SqsBroker(sqs_server.url, namespace=unique_name("test"))
    await broker.open()
    try:
        await broker.make_lane("lane")
        polling = asyncio.create_task(broker.take(["lane"], max_items=1, lease_s=5.0, wait_s=3.0))
        await asyncio.sleep(0.2)  # for the request to be there
        await broker.erase_lane("lane")
        await broker.make_lane("lane")
        with suppress(LaneGone):  # the service may as well say that nothing came
            assert await polling == []

        assert (await broker.count("lane")).waiting == 0
    finally:
        await broker.close()


async def test_records_that_many_processes_write_at_once_are_all_kept(sqs_server: SqsServer) -> None:
    connections = [await _connection(sqs_server) for _ in range(4)]
    catalogs = [SqsCatalog(connection, "records.fifo") for connection in connections]
    for catalog in catalogs:
        await catalog.open()

    async def write(catalog: SqsCatalog, mine: int) -> None:
        for n in range(5):
            await catalog.declare(f"{mine}/{n}", b"1")
            assert await catalog.declare("shared", str(mine).encode()) in {b"0", b"1", b"2", b"3"}

    await asyncio.gather(*(write(catalog, mine) for mine, catalog in enumerate(catalogs)))
    found = await catalogs[0].read()
    assert set(found.records) == {f"{mine}/{n}" for mine in range(4) for n in range(5)} | {"shared"}
    assert found.version == 21
    assert await catalogs[1].forget("0/0")
    assert not await catalogs[2].forget("0/0")
    assert "0/0" not in (await catalogs[3].read()).records
    for connection in connections:
        await connection.close()


async def test_writer_that_dies_before_it_removes_the_old_records_leaves_the_new_ones(
    sqs_server: SqsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await _connection(sqs_server)
    catalog = SqsCatalog(connection, "dying.fifo")
    await catalog.open()
    await catalog.declare("a", b"1")
    monkeypatch.setattr("pynomaly_tasks.messaging.backends.sqs.catalog._LOCK_S", 1)
    call = connection.call

    async def dying(action: str, **arguments: Any) -> Any:
        if action == "delete_message":
            raise BrokerUnavailable("the process is gone")
        return await call(action, **arguments)

    monkeypatch.setattr(connection, "call", dying)
    with pytest.raises(BrokerUnavailable):
        await catalog.declare("b", b"2")
    monkeypatch.setattr(connection, "call", call)

    assert (await catalog.read()).records == {"a": b"1", "b": b"2"}
    assert await catalog.declare("c", b"3") == b"3"
    assert (await catalog.read()).records == {"a": b"1", "b": b"2", "c": b"3"}
    await connection.close()


async def test_catalog_older_than_a_day_is_written_anew_before_sqs_drops_it(
    sqs_server: SqsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await _connection(sqs_server)
    catalog = SqsCatalog(connection, "old.fifo")
    await catalog.open()
    await catalog.declare("a", b"1")
    before = await catalog.read()
    monkeypatch.setattr("pynomaly_tasks.messaging.backends.sqs.catalog._OLD_S", -1.0)
    after = await catalog.read()

    assert after.version == before.version + 1
    assert after.records == before.records
    await connection.close()
