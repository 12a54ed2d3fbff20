"""The log of events on Apache Kafka: what is its own beside the contract that every log keeps."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import OutOfOrderSequenceNumber
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from pynomaly_tasks.errors import EventLogUnavailable, EventRefused, InvalidSettings, PartitionLost
from pynomaly_tasks.events.kafka.connection import KafkaConnection
from pynomaly_tasks.events.kafka.consumer import KafkaConsumer
from pynomaly_tasks.events.kafka.producer import KafkaProducer
from pynomaly_tasks.events.ports import Record
from pynomaly_tasks.kafka_client.clients import build_producer
from support.event_logs import KafkaLog, Member, append, by_key, numbered, until
from support.kafka import _CLUSTER_ID, SASL_PASSWORD, SASL_USER, KafkaNode, _home
from support.transport_servers import Certificates, make_certificates

TIMEOUT_S = 5.0


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 120))


@pytest.fixture
def log(kafka: KafkaNode) -> KafkaLog:
    return KafkaLog(kafka.bootstrap, kafka)


async def values(log: KafkaLog, topic: str) -> list[bytes | None]:
    records = await log.reader().read(topic, since=None, until=None, max_records=10_000)
    return [record.value for record in records]


# What is appended


def test_a_batch_that_the_topic_does_not_take_whole_is_split_around_what_is_too_large(
    kafka: KafkaNode, log: KafkaLog
) -> None:
    async def scenario() -> None:
        topic = kafka.new_topic(config={"max.message.bytes": 20_000})
        records = [
            Record(topic=topic, key=b"k", value=b"%d " % n + os.urandom(30_000 if n in (7, 30) else 1_000))
            for n in range(50)
        ]
        producer = log.producer()
        await producer.start()
        answers = await producer.send(records)
        await producer.stop()

        assert [n for n, answer in enumerate(answers) if answer] == [7, 30]
        assert all(isinstance(answers[n], EventRefused) for n in (7, 30))
        stored = [int((value or b"").split()[0]) for value in await values(log, topic)]
        assert stored == [n for n in range(50) if n not in (7, 30)]

    run(scenario())


def test_a_record_that_the_topic_forbids_is_found(kafka: KafkaNode, log: KafkaLog) -> None:
    async def scenario() -> None:
        topic = kafka.new_topic(config={"cleanup.policy": "compact"})  # where nothing goes without a key
        records = [*numbered(topic, 5, n_keys=5), Record(topic=topic, key=None, value=b"no key")]
        records += numbered(topic, 5, n_keys=5, first=5)
        producer = log.producer()
        await producer.start()
        answers = await producer.send(records)
        await producer.stop()

        assert [n for n, answer in enumerate(answers) if answer] == [5]
        assert isinstance(answers[5], EventRefused)
        assert await values(log, topic) == [b"%d" % n for n in range(10)]

    run(scenario())


def test_a_topic_that_is_made_later_is_found(kafka: KafkaNode, log: KafkaLog) -> None:
    async def scenario() -> None:
        topic = kafka.unique_name()
        producer = log.producer()
        await producer.start()
        (refused,) = await producer.send(numbered(topic, 1))
        assert isinstance(refused, EventRefused)
        assert "pynomaly kafka create-topics" in str(refused)
        began_s = time.monotonic()
        await producer.send(numbered(topic, 1))
        assert time.monotonic() - began_s < 1.0  # it was waited for once

        await asyncio.to_thread(kafka.create_topic, topic)
        assert await producer.send(numbered(topic, 1)) == [None]
        await producer.stop()

    run(scenario())


def test_a_name_of_a_header_that_is_no_text_is_refused(kafka: KafkaNode, log: KafkaLog) -> None:
    async def scenario() -> None:
        topic = kafka.new_topic()
        producer = log.producer()
        await producer.start()
        answers = await producer.send(
            [Record(topic=topic, key=b"a", value=b"1", headers=(("\udcff", b""),)), *numbered(topic, 1)]
        )
        await producer.stop()

        assert isinstance(answers[0], EventRefused)
        assert answers[1] is None

    run(scenario())


def test_a_sequence_error_ends_that_client_and_the_next_call_works(kafka: KafkaNode, log: KafkaLog) -> None:
    async def scenario() -> None:
        topic = kafka.new_topic()
        producer = log.producer()
        await producer.start()
        assert await producer.send(numbered(topic, 3)) == [None] * 3
        # As after a batch that Kafka has never seen: what aiokafka sends from then on has a gap.
        assert producer._client is not None
        transactions = producer._client.aiokafka._txn_manager
        for partition in list(transactions._sequence_numbers):
            transactions._sequence_numbers[partition] += 5

        answers = await producer.send(numbered(topic, 3, first=3))
        assert all(isinstance(answer, EventLogUnavailable) for answer in answers)
        assert OutOfOrderSequenceNumber.__name__ in str(answers[0])
        assert await producer.send(numbered(topic, 3, first=3)) == [None] * 3
        await producer.stop()
        assert await values(log, topic) == [b"%d" % n for n in range(6)]

    run(scenario())


def test_calls_from_many_tasks_are_appended_whole(kafka: KafkaNode, log: KafkaLog) -> None:
    async def scenario() -> None:
        topic = kafka.new_topic(2)
        producer = log.producer()
        await producer.start()
        answers = await asyncio.gather(
            *(producer.send(numbered(topic, 10, n_keys=2, first=10 * call)) for call in range(20))
        )
        await producer.stop()

        assert answers == [[None] * 10] * 20
        records = await log.reader().read(topic, since=None, until=None, max_records=1_000)
        for key, found in by_key(records).items():
            calls = [int(value or b"") // 10 for value in found]
            assert calls == [call for call in dict.fromkeys(calls) for _ in range(5)], key

    run(scenario())


# What is read


class _NoText:
    """A name of a header that another client wrote in Latin-1."""

    def encode(self, *_: object) -> bytes:
        return b"caf\xe9"


async def append_what_python_cannot_decode(kafka: KafkaNode, topic: str) -> None:
    producer = build_producer(bootstrap_servers=kafka.bootstrap)
    await producer.start()
    batch = producer.create_batch()
    builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, 0, 100_000)
    builder.append(0, None, b"key-0", b"before", [])
    builder.append(1, None, b"key-0", b"odd", [(_NoText(), b"\xff"), ("none", None)])  # type: ignore[list-item]
    builder.append(2, None, b"key-0", None, [])
    batch._builder, batch._relative_offset = builder, 3
    await (await producer.send_batch(batch, topic, partition=0))
    await producer.stop()


def test_a_header_whose_name_is_no_text_does_not_stop_a_partition(kafka: KafkaNode, log: KafkaLog) -> None:
    async def scenario() -> None:
        topic = kafka.new_topic()
        await append(log, *numbered(topic, 3))
        await append_what_python_cannot_decode(kafka, topic)
        await append(log, *numbered(topic, 3, first=3))
        expected = [b"0", b"1", b"2", b"before", b"odd", None, b"3", b"4", b"5"]

        async with Member(log, kafka.unique_name(), [topic]) as member:
            assert await member.wait_for(9) == expected
            odd = member.records[4]
            assert odd.headers == (("caf\\xe9", b"\xff"), ("none", b""))
            await member.consumer.commit(member.offsets())
            assert sum((await member.consumer.lag()).values()) == 0
        assert await values(log, topic) == expected

    run(scenario())


def test_what_a_transaction_took_back_is_not_read(kafka: KafkaNode, log: KafkaLog) -> None:
    async def scenario() -> None:
        topic = kafka.new_topic()
        producer = build_producer(
            bootstrap_servers=kafka.bootstrap, transactional_id=kafka.unique_name(), enable_idempotence=True
        )
        await producer.start()
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"taken back", key=b"k")
        await producer.abort_transaction()
        async with producer.transaction():
            await producer.send_and_wait(topic, b"kept", key=b"k")
        await producer.stop()

        async with Member(log, kafka.unique_name(), [topic]) as member:
            assert await member.wait_for(1) == [b"kept"]
        assert await values(log, topic) == [b"kept"]

    run(scenario())


def test_a_consumer_of_a_topic_that_is_not_there_says_so(kafka: KafkaNode, log: KafkaLog) -> None:
    async def scenario() -> None:
        consumer = log.consumer(kafka.unique_name(), ["nowhere"])
        with pytest.raises(EventLogUnavailable, match="no topic nowhere; create it"):
            await consumer.start(Member(log, "g", []))
        await consumer.stop()

    run(scenario())


def test_a_member_that_polls_no_more_is_replaced_but_not_one_whose_partitions_are_all_paused(
    kafka: KafkaNode, log: KafkaLog
) -> None:
    async def scenario() -> None:
        topic, group = kafka.new_topic(), kafka.unique_name()
        await append(log, *numbered(topic, 3))
        consumer = KafkaConsumer(log.connection, group=group, topics=[topic], max_poll_s=1.5)
        told = Member(log, group, [topic])
        await consumer.start(told)
        while not (found := await consumer.poll(10, 1.0)):
            pass
        offsets = {one: records[-1].offset + 1 for one, records in found.items()}
        told.commits_when_revoked = False

        for _ in range(8):
            assert await consumer.poll(10, 0.5, paused=list(found)) == {}
        await consumer.commit(offsets)
        assert told.revocations == []

        await asyncio.sleep(4)  # no poll: what is tested
        with pytest.raises(PartitionLost):
            await consumer.commit(offsets)
        await append(log, *numbered(topic, 1, first=3))
        while not (found := await consumer.poll(10, 1.0)):
            pass
        assert [record.value for records in found.values() for record in records] == [b"3"]
        await consumer.stop()

    run(scenario())


def test_a_pause_of_kafka_longer_than_the_session_is_survived(own_kafka: KafkaNode) -> None:
    log = KafkaLog(own_kafka.bootstrap, own_kafka)

    async def scenario() -> None:
        topic, group = own_kafka.new_topic(2), own_kafka.unique_name()
        producer = log.producer()
        await producer.start()
        async with Member(log, group, [topic]) as member:
            assert await producer.send(numbered(topic, 10, n_keys=4)) == [None] * 10
            await member.wait_for(10)
            own_kafka.pause()
            sending = asyncio.create_task(producer.send(numbered(topic, 10, n_keys=4, first=10)))
            await asyncio.sleep(15)  # longer than the member's session: what is tested
            answers = await sending
            assert all(isinstance(answer, EventLogUnavailable) for answer in answers)
            own_kafka.resume()
            first = 10
            while any(await producer.send(numbered(topic, 10, n_keys=4, first=first))):
                pass
            await until(
                lambda: member.check() and {b"%d" % n for n in range(20)} <= set(member.values),
                60,
                "all records",
            )
            for key, found in by_key(member.records).items():
                firsts = list(dict.fromkeys(int(value or b"") for value in found))
                assert firsts == sorted(firsts), key
        await producer.stop()

    run(scenario())


# Who may connect


def connection(kafka: KafkaNode, **options: Any) -> KafkaConnection:
    return KafkaConnection(
        **{
            "bootstrap_servers": kafka.sasl_bootstrap, "security_protocol": "SASL_PLAINTEXT",
            "sasl_username": SASL_USER, "sasl_password": SASL_PASSWORD, **options,
        }
    )  # fmt: skip


async def _refusal(connection: KafkaConnection) -> str:
    producer = KafkaProducer(connection, timeout_s=TIMEOUT_S)
    began_s = time.monotonic()
    with pytest.raises(EventLogUnavailable) as refused:
        await producer.start()
    await producer.stop()
    assert time.monotonic() - began_s < TIMEOUT_S + 3
    return str(refused.value)


def test_a_login_lets_producers_consumers_and_readers_in(kafka: KafkaNode) -> None:
    log = KafkaLog(kafka.bootstrap, kafka)
    log.connection = connection(kafka)

    async def scenario() -> None:
        topic = kafka.new_topic()
        await append(log, *numbered(topic, 3))
        async with Member(log, kafka.unique_name(), [topic]) as member:
            assert await member.wait_for(3) == [b"0", b"1", b"2"]
        assert len(await values(log, topic)) == 3

    run(scenario())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sasl_password": "wrong"}, "kafka.sasl_password"),
        ({"sasl_username": "nobody"}, "kafka.sasl_username"),
        ({"sasl_mechanism": "SCRAM-SHA-256"}, "kafka.sasl_mechanism"),
        ({"security_protocol": "PLAINTEXT"}, "kafka.security_protocol"),
        ({"security_protocol": "SASL_SSL"}, "kafka.security_protocol"),
        ({"bootstrap_servers": "127.0.0.1:1"}, "kafka.bootstrap_servers"),
        ({"bootstrap_servers": "no-such-host.invalid:9092"}, "kafka.bootstrap_servers"),
    ],
)
def test_a_wrong_setting_is_named_within_the_timeout(
    kafka: KafkaNode, options: dict[str, Any], says: str
) -> None:
    message = asyncio.run(_refusal(connection(kafka, **options)))

    assert says in message
    assert "wrong" not in message  # no password in an error


def test_a_consumer_and_a_reader_name_the_wrong_password_too(kafka: KafkaNode) -> None:
    log = KafkaLog(kafka.bootstrap, kafka)
    log.connection = connection(kafka, sasl_password="wrong")

    async def scenario() -> None:
        consumer = log.consumer("g", ["t"])
        with pytest.raises(EventLogUnavailable, match=r"kafka\.sasl_password"):
            await consumer.start(Member(log, "g", []))
        with pytest.raises(EventLogUnavailable, match=r"kafka\.sasl_password"):
            await log.reader().read("t", since=None, until=None, max_records=1)

    run(scenario())


class ScramNode(KafkaNode):
    """One with a user of SCRAM, whom Kafka's own tool makes before the first start."""

    def format(self, voters: Mapping[int, int]) -> None:
        super().format(voters)
        shutil.rmtree(self.directory / "data")
        home = _home()
        user = f"[name={SASL_USER},password={SASL_PASSWORD}]"
        made = subprocess.run(
            [(home / "java").resolve(), f"@{home / 'jvm.args'}", "kafka.tools.StorageTool", "format",
             "--cluster-id", _CLUSTER_ID, "--config", self.directory / "server.properties",
             "--add-scram", f"SCRAM-SHA-256={user}", "--add-scram", f"SCRAM-SHA-512={user}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stdout + made.stderr


def test_a_login_by_scram_works_and_a_wrong_password_is_named() -> None:
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    node = ScramNode(
        properties={
            "listener.name.sasl.sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.sasl.scram-sha-256.sasl.jaas.config": scram,
            "listener.name.sasl.scram-sha-512.sasl.jaas.config": scram,
        }
    )
    try:
        node.start()
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            log = KafkaLog(node.bootstrap, node)
            log.connection = connection(node, sasl_mechanism=mechanism)
            topic = node.new_topic()
            run(append(log, *numbered(topic, 3)))
            wrong = connection(node, sasl_mechanism=mechanism, sasl_password="wrong")
            assert "kafka.sasl_password" in asyncio.run(_refusal(wrong))
    finally:
        node.close()


def test_what_a_login_needs_is_asked_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        nobody = KafkaConnection(bootstrap_servers="127.0.0.1:1", security_protocol="SASL_PLAINTEXT")
        with pytest.raises(InvalidSettings, match=r"kafka\.sasl_username"):
            await KafkaProducer(nobody).start()
        for servers in ("host:port", "host:70000", "a:9092,,b:9092", " "):
            with pytest.raises(InvalidSettings, match=r"kafka\.bootstrap_servers"):
                await KafkaProducer(KafkaConnection(bootstrap_servers=servers)).start()
        no_file = KafkaConnection(
            bootstrap_servers="127.0.0.1:1", security_protocol="SSL", ssl_ca_file=tmp_path / "none.pem"
        )
        with pytest.raises(InvalidSettings, match=r"kafka\.ssl_ca_file"):
            await KafkaProducer(no_file).start()

    run(scenario())
    assert "secret" not in repr(KafkaConnection(bootstrap_servers="x", sasl_password="secret"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls_kafka(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaNode]:
    """One whose second listener wants a login over TLS."""
    pem = tmp_path_factory.mktemp("keystore") / "server.pem"
    pem.write_text(certificates.key.read_text() + certificates.certificate.read_text())
    node = KafkaNode(
        properties={
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL:SASL_SSL",
            "listener.name.sasl.ssl.keystore.type": "PEM",
            "listener.name.sasl.ssl.keystore.location": pem,
        }
    )
    try:
        yield node.start()
    finally:
        node.close()


def test_a_login_over_tls_works_with_the_authority_that_vouches_for_kafka(
    tls_kafka: KafkaNode, certificates: Certificates
) -> None:
    log = KafkaLog(tls_kafka.bootstrap, tls_kafka)
    log.connection = connection(tls_kafka, security_protocol="SASL_SSL", ssl_ca_file=certificates.authority)

    async def scenario() -> None:
        topic = tls_kafka.new_topic()
        await append(log, *numbered(topic, 3))
        async with Member(log, tls_kafka.unique_name(), [topic]) as member:
            assert await member.wait_for(3) == [b"0", b"1", b"2"]

    run(scenario())


def test_a_certificate_that_nobody_vouches_for_names_the_setting(tls_kafka: KafkaNode) -> None:
    message = asyncio.run(_refusal(connection(tls_kafka, security_protocol="SASL_SSL")))

    assert "kafka.ssl_ca_file" in message
