"""What only Kafka's and Event Hubs' queues do: bytes of others, holes, snapshots, deleting, addresses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from click.testing import CliRunner

from pynomaly_tasks.bootstrap import build_messaging
from pynomaly_tasks.cli import pynomaly
from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.errors import BrokerUnavailable, InvalidSettings
from pynomaly_tasks.kafka_client.clients import build_producer
from pynomaly_tasks.messaging import QueueManager, QueueOptions, Reason, build_backend
from pynomaly_tasks.messaging.backends.kafka import broker as kafka_backend
from pynomaly_tasks.messaging.backends.kafka import keeper as kafka_keeper
from pynomaly_tasks.messaging.backends.kafka.address import parse_url
from pynomaly_tasks.messaging.backends.kafka.broker import KafkaBroker
from pynomaly_tasks.messaging.backends.kafka.event_hubs import EventHubsBroker, parse_connection_string
from pynomaly_tasks.messaging.plain_broker import Item
from pynomaly_tasks.settings import load_settings
from support.event_hubs import EventHubsListener
from support.kafka import SASL_PASSWORD, SASL_USER, KafkaNode
from support.kafka_topics import unique_name
from support.messaging import one, payloads, until


def _broker(node: KafkaNode, namespace: str, options: str = "") -> KafkaBroker:
    return KafkaBroker(f"kafka://{node.bootstrap}{options}", namespace=namespace)


@asynccontextmanager
async def _opened(broker: KafkaBroker) -> AsyncIterator[KafkaBroker]:
    await broker.open()
    try:
        yield broker
    finally:
        await broker.close()


def _manager(node: KafkaNode, namespace: str) -> QueueManager:
    return QueueManager(build_backend("kafka", f"kafka://{node.bootstrap}", namespace=namespace))


def _numbers(n: int) -> list[Item]:
    return [Item(lane="q", data=b"%d" % number) for number in range(n)]


async def _is_short(broker: KafkaBroker, namespace: str, n_deleted: int) -> bool:
    """Whether that many entries of the ledger were deleted."""
    return await broker._wire.begin_offset(f"{namespace}.ledger") > n_deleted


def _topic(node: KafkaNode, namespace: str, lane: str) -> str:
    (name,) = (name for name in node.topics() if name.startswith(f"{namespace}.{lane}."))
    return name


async def _produce(
    node: KafkaNode, write: Callable[[AIOKafkaProducer], Awaitable[Any]], **options: Any
) -> None:
    producer = build_producer(bootstrap_servers=node.bootstrap, **options)
    await producer.start()
    try:
        await write(producer)
    finally:
        await producer.stop()


async def test_bytes_that_others_wrote_into_a_queues_topic_become_dead_letters(kafka: KafkaNode) -> None:
    namespace = unique_name("foreign")
    async with _manager(kafka, namespace) as manager:
        await manager.create_queue("q")
        await manager.send("q", "before")
        topic = _topic(kafka, namespace, "q")

        async def write(producer: AIOKafkaProducer) -> None:
            for value in (b"\xff\x00 junk", None, b'{"cut', b""):
                await producer.send_and_wait(topic, value, key=b"k", headers=[("trace", b"1")])

        await _produce(kafka, write)
        await manager.send("q", "after")

        assert await payloads(manager, "q") == ["before", "after"]
        letters = await manager.dead_letters.list_letters("q")
        assert [(each.raw, each.reason) for each in letters] == [
            (raw, Reason.UNREADABLE) for raw in (b"\xff\x00 junk", b"", b'{"cut', b"")
        ]


class _Latin1:
    """A name of a header that another client wrote in Latin-1."""

    def encode(self, *_: object) -> bytes:
        return b"caf\xe9"


async def test_header_whose_name_is_no_text_stops_nobody(kafka: KafkaNode) -> None:
    namespace = unique_name("header")
    async with _manager(kafka, namespace) as manager:
        await manager.create_queue("q")
        await manager.send("q", 1)
        topic = _topic(kafka, namespace, "q")

        async def write(producer: AIOKafkaProducer) -> None:
            batch = producer.create_batch()
            builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, 0, 100_000)
            builder.append(0, None, None, b"odd", [(_Latin1(), b"x")])
            batch._builder, batch._relative_offset = builder, 1
            await (await producer.send_batch(batch, topic, partition=0))

        await _produce(kafka, write)
        await manager.send("q", 2)

        assert await payloads(manager, "q") == [1, 2]
        assert [each.raw for each in await manager.dead_letters.list_letters("q")] == [b"odd"]


async def test_ends_of_others_transactions_are_no_messages(kafka: KafkaNode) -> None:
    namespace = unique_name("holes")
    async with _manager(kafka, namespace) as manager:
        await manager.create_queue("q")
        await manager.send("q", 1)
        topic = _topic(kafka, namespace, "q")

        async def write(producer: AIOKafkaProducer) -> None:
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"never committed")
            await producer.abort_transaction()
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"junk")
            await producer.commit_transaction()

        await _produce(kafka, write, transactional_id=namespace)
        await manager.send("q", 2)

        assert await payloads(manager, "q") == [1, 2]
        assert [each.raw for each in await manager.dead_letters.list_letters("q")] == [b"junk"]
        assert (await manager.statistics("q")).measure.depth == 0


async def test_junk_in_the_ledger_stops_nobody(kafka: KafkaNode) -> None:
    namespace = unique_name("junk")
    async with _manager(kafka, namespace) as manager:
        await manager.create_queue("q")
        await manager.send_many("q", [1, 2])
        first = await one(manager, "q")

        async def write(producer: AIOKafkaProducer) -> None:
            for value in (None, b"\xff", b'["x",1,"settle",7]', b'["x",1,"snapshot",0,7]', b"[]"):
                await producer.send_and_wait(f"{namespace}.ledger", value, key=b"k")

        await _produce(kafka, write)
        await first.ack()
        assert await payloads(manager, "q") == [2]


async def test_process_that_begins_later_continues_from_a_snapshot(
    kafka: KafkaNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_backend, "SNAPSHOT_EVERY", 50)
    namespace = unique_name("snapshot")
    async with _opened(_broker(kafka, namespace)) as first:
        await first.make_lane("q")
        await first.declare("a", b"\x00\xff")
        await first.append(_numbers(200))
        held = await first.take(["q"], max_items=3, lease_s=600.0, wait_s=0.0)
        for _ in range(180):
            (taken,) = await first.take(["q"], max_items=1, lease_s=600.0, wait_s=0.0)
            assert await first.acknowledge([taken]) == [True]
        await until(lambda: _is_short(first, namespace, 200), "the ledger to be shortened")
        async with _opened(_broker(kafka, namespace)) as later:
            assert (await later.read_catalog()).records == {"a": b"\x00\xff"}
            assert (
                later._follower.ledger.to_snapshot()["lanes"] == first._follower.ledger.to_snapshot()["lanes"]
            )
            count = await later.count("q")
            assert (count.waiting, count.held) == (17, 3)
            rest = await later.take(["q"], max_items=50, lease_s=600.0, wait_s=0.0)
            assert [each.data for each in rest] == [b"%d" % n for n in range(183, 200)]
            assert await first.acknowledge(held) == [True] * 3


async def test_snapshot_is_written_where_the_newest_one_is_old_and_is_enough_to_begin_with(
    event_hubs: EventHubsListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_keeper, "SNAPSHOT_EVERY_S", 0.0)
    namespace = unique_name("aged")
    first, later = (EventHubsBroker(event_hubs.connection_string, namespace=namespace) for _ in range(2))
    async with _opened(first):
        await first.make_lane("q")
        await first.append(_numbers(3))
        (taken,) = await first.take(["q"], max_items=1, lease_s=600.0, wait_s=0.0)
        before = await first._wire.end_offset(f"{namespace}.ledger")
        await first._keeper.refresh()
        await first.acknowledge([taken])
        # As its retention would.
        await first._wire.delete_before(f"{namespace}.ledger", before)
        async with _opened(later):
            assert (await later.count("q")).waiting == 2
            assert later._follower.ledger.to_snapshot() == first._follower.ledger.to_snapshot()


async def test_process_whose_reading_ended_begins_anew_at_a_snapshot(
    kafka: KafkaNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_backend, "SNAPSHOT_EVERY", 20)
    namespace = unique_name("behind")
    first, behind = _broker(kafka, namespace), _broker(kafka, namespace)
    async with _opened(first), _opened(behind):
        await first.make_lane("q")
        await behind.ping()
        assert behind._follower._task is not None
        behind._follower._task.cancel()
        await first.append(_numbers(100))
        for _ in range(90):
            await first.acknowledge(await first.take(["q"], max_items=1, lease_s=600.0, wait_s=0.0))
        await until(lambda: _is_short(first, namespace, 50), "the ledger to be shortened")
        rest = await behind.take(["q"], max_items=50, lease_s=600.0, wait_s=0.0)

        assert [each.data for each in rest] == [b"%d" % n for n in range(90, 100)]
        assert await behind.acknowledge(rest) == [True] * 10


async def test_settled_messages_are_deleted_and_unsettled_ones_are_not(kafka: KafkaNode) -> None:
    async with _opened(_broker(kafka, unique_name("keeper"), "?keep_hours=0")) as broker:
        await broker.make_lane("q")
        await broker.append(_numbers(10))
        taken = await broker.take(["q"], max_items=6, lease_s=600.0, wait_s=0.0)
        await broker.acknowledge([*taken[:4], taken[5]])
        await broker._keeper.tidy()
        _, topic = broker._find("q")

        assert await broker._wire.begin_offset(topic) == 4
        assert await broker.release(taken[4])
        rest = await broker.take(["q"], max_items=9, lease_s=600.0, wait_s=0.0)
        assert [each.data for each in rest] == [b"4", b"6", b"7", b"8", b"9"]


async def test_messages_that_somebody_deleted_from_the_topic_block_nobody(kafka: KafkaNode) -> None:
    async with _opened(_broker(kafka, unique_name("deleted"))) as broker:
        await broker.make_lane("q")
        await broker.append(_numbers(10))
        _, topic = broker._find("q")
        await broker._wire.delete_before(topic, 7)

        taken = await broker.take(["q"], max_items=10, lease_s=600.0, wait_s=1.0)
        assert [each.data for each in taken] == [b"7", b"8", b"9"]
        assert (await broker.count("q")).held == 3


async def test_cancelled_take_gives_back_what_it_was_given(kafka: KafkaNode) -> None:
    async with _opened(_broker(kafka, unique_name("cancelled"))) as broker:
        await broker.make_lane("q")
        await broker.append([Item(lane="q", data=b"x")])
        for pause_s in (0.0, 0.001, 0.003, 0.006, 0.01):
            taking = asyncio.create_task(broker.take(["q"], max_items=1, lease_s=600.0, wait_s=5.0))
            await asyncio.sleep(pause_s)
            taking.cancel()
            with suppress(asyncio.CancelledError):
                await broker.release((await taking)[0])  # it was quicker than the cancelling

        (taken,) = await broker.take(["q"], max_items=1, lease_s=600.0, wait_s=5.0)
        assert taken.data == b"x"


async def test_why_nobody_answers_is_told_within_the_connect_timeout(
    kafka: KafkaNode, event_hubs: EventHubsListener
) -> None:
    key = event_hubs.connection_string.replace("SharedAccessKey=bm90", "SharedAccessKey=aHVz")
    untrusted = event_hubs.connection_string.partition(";CaFile")[0]
    cases = [
        ("event_hubs", key, "refused the login"),
        ("event_hubs", untrusted, "certificate that is not trusted"),
        ("kafka", f"kafkas://{kafka.bootstrap}", "TLS"),
        ("kafka", f"kafka://{event_hubs.sasl_bootstrap}", "TLS"),
        ("kafka", f"kafka://u:hush@{kafka.sasl_bootstrap}", "refused the login"),
        ("kafka", f"kafka://u:hush@{kafka.sasl_bootstrap}?mechanism=SCRAM-SHA-256", "knows no SCRAM-SHA-256"),
        ("kafka", f"kafka://u:hush@{kafka.bootstrap}", "wants no login"),
        ("kafka", f"kafka://127.0.0.1:{find_free_port()}", "is closed"),
    ]
    for name, url, why in cases:
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=f"no answer: .*{why}") as caught:
            await build_backend(name, url, connect_timeout_s=3.0).open()
        assert time.monotonic() - started < 3.5
        assert "hush" not in str(caught.value)
        assert "aHVz" not in str(caught.value)


async def test_login_by_user_and_password_lets_in(kafka: KafkaNode) -> None:
    url = f"kafka://{SASL_USER}:{SASL_PASSWORD}@{kafka.sasl_bootstrap}"
    async with QueueManager(build_backend("kafka", url, namespace=unique_name("login"))) as manager:
        await manager.create_queue("q")
        await manager.send("q", 1)
        assert await payloads(manager, "q") == [1]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://h:1", "kafka://host:port"),
        ("kafka://", "kafka://host:port"),
        ("kafka://h", "host:port"),
        ("kafka://h:1,i", "host:port"),
        ("kafka://u:hush@h:1?colour=red", "the option 'colour'"),
        ("kafka://u:hush@h:1?mechanism=NTLM", "the mechanism 'NTLM'"),
        ("kafka://u:hush@h:1?replication=0", "whole number"),
        ("kafka://u:hush@h:1?keep_hours=-1", "number of hours"),
        ("kafkas://u:hush@h:1?ca_file=/no/such", "/no/such"),
    ],
)
async def test_address_that_cannot_be_is_refused_without_its_password(url: str, why: str) -> None:
    with pytest.raises(InvalidSettings, match=why) as caught:
        await build_backend("kafka", url).open()
    assert "messaging.url" in str(caught.value)
    assert "hush" not in str(caught.value)


def test_address_says_how_to_connect() -> None:
    plain, _ = parse_url("kafka://a:1,b:2")
    login, options = parse_url("kafkas://us%40er:p%3Aw@a:1?mechanism=SCRAM-SHA-512&replication=2")

    assert (plain.servers, plain.security_protocol, plain.username) == ("a:1,b:2", "PLAINTEXT", None)
    assert (login.security_protocol, login.username, login.password) == ("SASL_SSL", "us@er", "p:w")
    assert (login.mechanism, options["replication"]) == ("SCRAM-SHA-512", "2")
    assert "p:w" not in repr(login)


KEY = "SharedAccessKeyName=all;SharedAccessKey=aHVzaA=="


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "lacks Endpoint, SharedAccessKeyName, SharedAccessKey"),
        ("Endpoint=sb://h/;SharedAccessKeyName=all", "lacks SharedAccessKey"),
        (f"Endpoint=sb://h/;{KEY};EntityPath=one", "names one event hub"),
        (f"Endpoint=https://h/;{KEY}", "must be sb://"),
        (f"Endpoint=sb://h/;{KEY};Colour=red", "the part 'Colour'"),
    ],
)
def test_connection_string_that_cannot_be_is_refused_without_its_key(text: str, why: str) -> None:
    with pytest.raises(InvalidSettings, match=why) as caught:
        parse_connection_string(text)
    assert "aHVz" not in str(caught.value)


def test_connection_string_says_how_to_connect() -> None:
    text = f"Endpoint=sb://mine.servicebus.windows.net/;{KEY}"
    hub, emulator = (
        parse_connection_string(text),
        parse_connection_string(f"Endpoint=sb://localhost;{KEY};UseDevelopmentEmulator=true;"),
    )

    assert (hub.servers, hub.security_protocol) == ("mine.servicebus.windows.net:9093", "SASL_SSL")
    assert (hub.mechanism, hub.username, hub.password) == ("PLAIN", "$ConnectionString", text)
    assert (emulator.servers, emulator.security_protocol) == ("localhost:9092", "SASL_PLAINTEXT")


def test_command_sends_settled_messages_again(kafka: KafkaNode, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = unique_name("command")
    for name, value in (
        ("BACKEND", "kafka"),
        ("URL", f"kafka://{kafka.bootstrap}"),
        ("NAMESPACE", namespace),
    ):
        monkeypatch.setenv(f"PYNOMALY_MESSAGING__{name}", value)

    async def use() -> list[Any]:
        async with build_messaging(load_settings()) as manager:
            await manager.create_queue("q")
            found = await payloads(manager, "q")
            await manager.send_many("q", [1, 2] if not found else [])
            return found + await payloads(manager, "q")

    def command(*arguments: str) -> str:
        done = CliRunner().invoke(pynomaly, ["messaging", "replay", "q", *arguments])
        return f"{done.exit_code} {done.stdout}{done.stderr}"

    assert asyncio.run(use()) == [1, 2]
    assert command("--since", "1h") == "0 2 sent again\n"
    assert asyncio.run(use()) == [1, 2]
    assert command("--offset", "1") == "0 2 sent again\n"
    assert command().startswith("2 ")
    assert command("--since", "1h", "--offset", "1").startswith("2 ")


async def test_queues_keep_their_options_and_messages_while_nobody_is_there(kafka: KafkaNode) -> None:
    namespace = unique_name("again")
    async with _manager(kafka, namespace) as before:
        await before.create_queue("q", QueueOptions(lease_s=7.0))
        await before.send_many("q", [1, 2, 3])
        await (await one(before, "q")).ack()
    async with _manager(kafka, namespace) as after:
        assert (await after.list_queues())["q"].lease_s == 7.0
        assert await payloads(after, "q") == [2, 3]
