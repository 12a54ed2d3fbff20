"""The tests' own Apache Kafka keeps what it promises to the tests."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, UnknownTopicOrPartitionError

from pynomaly_tasks.embedded.ports import find_free_port
from pynomaly_tasks.kafka_client.clients import build_consumer, build_producer
from support.kafka import KafkaCluster, KafkaNode
from support.kafka_topics import KafkaTopics, run_bounded

_BOUND_S = 30.0


async def _send(topic: str, values: Sequence[bytes], **options: Any) -> None:
    # An await on a client of a Kafka that is away may never end: `run_bounded` ends it.
    producer = build_producer(acks="all", enable_idempotence=True, **options)
    try:
        await producer.start()
        for value in values:
            await producer.send_and_wait(topic, value, key=value[:1], headers=[("n", value)])
    finally:
        await producer.stop()


def send(topic: str, values: Sequence[bytes], **options: Any) -> None:
    run_bounded(_send(topic, values, **options), _BOUND_S, f"{len(values)} records to be acknowledged")


def values_of(kafka: KafkaTopics, topic: str) -> list[bytes | None]:
    return [record.value for record in kafka.read_topic(topic)]


def test_topic_is_read_whole_with_keys_and_headers(kafka: KafkaNode) -> None:
    topic = kafka.new_topic(3)
    sent = [b"%d" % n for n in range(30)]

    send(topic, sent, bootstrap_servers=kafka.bootstrap)

    records = kafka.read_topic(topic)
    assert sorted(record.value or b"" for record in records) == sorted(sent)
    assert all(record.key == record.header("n")[:1] for record in records)
    assert len({record.partition for record in records}) > 1
    assert all(record.timestamp_ms > 1_700_000_000_000 for record in records)
    for partition in range(3):
        offsets = [record.offset for record in records if record.partition == partition]
        assert offsets == list(range(len(offsets)))


def test_each_test_has_topics_of_its_own_and_none_is_made_by_being_named(kafka: KafkaNode) -> None:
    first, second = kafka.new_topic(), kafka.new_topic()
    unknown = kafka.unique_name()

    async def ask() -> None:
        producer = build_producer(bootstrap_servers=kafka.bootstrap, request_timeout_ms=1_000)
        try:
            await producer.start()
            await producer.send_and_wait(unknown, b"lost")
        finally:
            await producer.stop()

    with pytest.raises(UnknownTopicOrPartitionError):
        run_bounded(ask(), _BOUND_S, "a refusal")
    assert first != second
    assert unknown not in kafka.topics()


def test_deleted_topic_is_gone(kafka: KafkaNode) -> None:
    topic = kafka.new_topic()

    kafka.delete_topic(topic)

    assert topic not in kafka.topics()


@pytest.mark.parametrize("compression", ["gzip", "lz4", "zstd", "snappy"])
def test_broker_compresses_by_itself(kafka: KafkaNode, compression: str) -> None:
    topic = kafka.new_topic(config={"compression.type": compression})
    value = b"again and again " * 5_000

    send(topic, [value], bootstrap_servers=kafka.bootstrap)

    assert kafka.log_size_bytes(topic) < len(value) / 4


def test_right_password_is_taken(kafka: KafkaNode) -> None:
    topic = kafka.new_topic()

    send(topic, [b"let in"], **kafka.sasl_options)

    assert values_of(kafka, topic) == [b"let in"]


@pytest.mark.parametrize("wrong", [{"sasl_plain_password": "guessed"}, {"sasl_plain_username": "nobody"}])
def test_wrong_password_is_refused(
    kafka: KafkaNode, wrong: dict[str, str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = kafka.new_topic()
    # The platform lets a repeated message pass only now and then, in all of this process.
    monkeypatch.setattr(logging.getLogger("aiokafka"), "filters", [])
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("aiokafka."):
            monkeypatch.setattr(logging.getLogger(name), "filters", [])

    # aiokafka tells the reason to its log alone.
    with pytest.raises(KafkaConnectionError):
        send(topic, [b"kept out"], **{**kafka.sasl_options, **wrong})

    assert "SaslAuthenticationFailed" in caplog.text
    assert values_of(kafka, topic) == []


def test_group_is_joined_at_once_and_goes_on_where_it_committed(kafka: KafkaNode) -> None:
    topic, group = kafka.new_topic(), kafka.unique_name("group")
    send(topic, [b"1", b"2", b"3"], bootstrap_servers=kafka.bootstrap)

    async def take(n: int) -> list[bytes | None]:
        consumer = build_consumer(
            topic, bootstrap_servers=kafka.bootstrap, group_id=group, enable_auto_commit=False,
            auto_offset_reset="earliest", max_poll_records=1,
        )  # fmt: skip
        try:
            await consumer.start()
            taken = [(await consumer.getone()).value for _ in range(n)]
            await consumer.commit()
        finally:
            await consumer.stop()
        return taken

    assert run_bounded(take(2), _BOUND_S, "two records") == [b"1", b"2"]
    assert run_bounded(take(1), _BOUND_S, "one record") == [b"3"]


def test_aborted_transaction_is_only_seen_by_who_asks_for_it(kafka: KafkaNode) -> None:
    topic = kafka.new_topic()

    async def write() -> None:
        producer = build_producer(
            bootstrap_servers=kafka.bootstrap, transactional_id=kafka.unique_name("writer")
        )
        try:
            await producer.start()
            async with producer.transaction():
                await producer.send_and_wait(topic, b"committed")
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"aborted")
            await producer.abort_transaction()
        finally:
            await producer.stop()

    run_bounded(write(), _BOUND_S, "two transactions")

    assert values_of(kafka, topic) == [b"committed"]
    every = kafka.read_topic(topic, isolation_level="read_uncommitted")
    assert [record.value for record in every] == [b"committed", b"aborted"]


def test_data_survives_a_kill_and_a_clean_stop(own_kafka: KafkaNode) -> None:
    topic = own_kafka.new_topic()
    bootstrap = own_kafka.bootstrap
    send(topic, [b"%d" % n for n in range(100)], bootstrap_servers=bootstrap)

    own_kafka.kill()
    assert not own_kafka.is_member()
    own_kafka.restart()
    send(topic, [b"after the kill"], bootstrap_servers=bootstrap)
    assert own_kafka.stop() == 143
    own_kafka.restart()

    assert own_kafka.bootstrap == bootstrap
    assert values_of(own_kafka, topic) == [*(b"%d" % n for n in range(100)), b"after the kill"]


def test_paused_node_answers_nothing_and_goes_on(own_kafka: KafkaNode) -> None:
    topic = own_kafka.new_topic()

    own_kafka.pause()
    assert not own_kafka.is_member()
    own_kafka.resume()

    send(topic, [b"after the pause"], bootstrap_servers=own_kafka.bootstrap)
    assert values_of(own_kafka, topic) == [b"after the pause"]


def test_node_that_cannot_start_says_why() -> None:
    node = KafkaNode(properties={"num.io.threads": "none"})
    try:
        with pytest.raises(pytest.fail.Exception, match=r"num\.io\.threads"):
            node.start()
    finally:
        node.close()
    assert not node.directory.exists()


def test_node_takes_other_ports_where_its_own_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    node = KafkaNode()
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        choices = iter([taken])
        monkeypatch.setattr(
            "pynomaly_tasks.embedded.ports.find_free_port", lambda: next(choices, None) or find_free_port()
        )
        try:
            node.start()

            assert node.serves()
            assert taken not in {node.port, node.sasl_port, node.controller_port}
        finally:
            node.close()


def test_three_nodes_survive_the_loss_of_one_and_take_it_back(kafka_cluster: KafkaCluster) -> None:
    topic = kafka_cluster.new_topic(3)
    send(topic, [b"before"], bootstrap_servers=kafka_cluster.bootstrap)
    lost = kafka_cluster.leader(topic)

    lost.kill()
    kafka_cluster.wait_led(topic)
    send(topic, [b"without it"], bootstrap_servers=kafka_cluster.bootstrap)
    lost.restart()
    kafka_cluster.wait_in_sync()
    other = kafka_cluster.leader(topic)
    other.kill()
    kafka_cluster.wait_led(topic)

    assert kafka_cluster.leader(topic) is not other
    kafka_cluster.restart()
    assert sorted(values_of(kafka_cluster, topic)) == [b"before", b"without it"]


def test_write_that_only_one_node_could_hold_is_not_acknowledged(kafka_cluster: KafkaCluster) -> None:
    topic = kafka_cluster.new_topic()
    leader = kafka_cluster.leader(topic)
    for node in kafka_cluster.nodes:
        if node is not leader:
            node.pause()

    with pytest.raises(AssertionError, match="waited 3 s"):
        run_bounded(
            _send(topic, [b"alone"], bootstrap_servers=leader.bootstrap), 3.0, "a write to be acknowledged"
        )
