"""kombu's own interface on our transport: settling, dropping, waiting, batches, forks."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from kombu import Connection, Consumer, Queue

from pynomaly_tasks.embedded.redis_server import RedisServer
from support.tcp_proxy import TcpProxy
from support.transport import OURS, SEP
from support.waiting import wait_until


@pytest.fixture
def connection(redis_server: RedisServer, broker: redis.Redis) -> Iterator[Connection]:
    with connect(redis_server) as connection:
        yield connection


def connect(server: RedisServer, **options: Any) -> Connection:
    return Connection(f"{server.url}/1", transport=OURS, transport_options=options)


def publish(connection: Connection, *bodies: Any, **options: Any) -> None:
    with connection.Producer() as producer:
        for body in bodies:
            producer.publish(body, routing_key="q", **options)


def test_acknowledged_message_is_gone_in_a_moment(connection: Connection, broker: redis.Redis) -> None:
    publish(connection, {"n": 1})
    message = connection.default_channel.basic_get("q")
    held = broker.hlen("unacked"), broker.zcard("unacked_index")

    message.ack()

    wait_until(lambda: not broker.exists("unacked", "unacked_index"), 1, "the acknowledgement")
    assert message.payload == {"n": 1}
    assert held == (1, 1)


def test_requeued_message_comes_last_and_says_so(connection: Connection, broker: redis.Redis) -> None:
    publish(connection, 1, 2)
    channel = connection.default_channel
    first = channel.basic_get("q")

    first.requeue()
    wait_until(lambda: broker.llen("q") == 2, 1, "the message to be back")
    again = [channel.basic_get("q") for _ in range(2)]

    assert [message.payload for message in again] == [2, 1]
    assert [message.delivery_info.get("redelivered") for message in again] == [None, True]
    assert [message.headers.get("redelivered") for message in again] == [None, True]


def test_message_that_nobody_settles_any_more_comes_back(connection: Connection, broker: redis.Redis) -> None:
    publish(connection, 1)
    message = connection.default_channel.basic_get("q")
    assert broker.llen("q") == 0

    del message
    gc.collect()

    wait_until(lambda: broker.llen("q") == 1, 1, "the message to be back")
    assert broker.hlen("unacked") == 0


def test_message_outlives_its_channel_and_is_acknowledged_by_tag(
    redis_server: RedisServer, broker: redis.Redis
) -> None:
    with connect(redis_server) as connection:
        publish(connection, 1)
        message = connection.default_channel.basic_get("q")
    held = broker.hlen("unacked")

    message.ack()

    wait_until(lambda: not broker.exists("unacked"), 2, "the acknowledgement")
    assert held == 1
    assert broker.llen("q") == 0


def test_forked_child_neither_gives_back_nor_acknowledges(
    connection: Connection, broker: redis.Redis
) -> None:
    publish(connection, 1, 2)
    channel = connection.default_channel
    messages = [channel.basic_get("q"), channel.basic_get("q")]

    child = os.fork()
    if child == 0:
        messages.pop().ack()
        messages.clear()
        gc.collect()
        channel.ledger.flush()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    publish(connection, 3)

    assert status == 0
    assert broker.hlen("unacked") == 2
    assert broker.llen("q") == 1
    for message in messages:
        message.ack()


def test_child_that_publishes_is_not_taken_for_its_parent(
    connection: Connection, redis_server: RedisServer, broker: redis.Redis
) -> None:
    publish(connection, *range(5))

    child = os.fork()
    if child == 0:
        publish(connect(redis_server), *range(5))
        os._exit(0)
    os.waitpid(child, 0)
    publish(connection, *range(5))

    assert broker.llen("q") == 15


def test_consumer_gets_one_message_at_each_drain_within_its_prefetch(
    connection: Connection, broker: redis.Redis
) -> None:
    publish(connection, *range(10))
    got: list[Any] = []
    consumer = Consumer(
        connection, [Queue("q")], callbacks=[lambda body, message: got.append((body, message))]
    )
    consumer.qos(prefetch_count=4)

    with consumer:
        for _ in range(4):
            connection.drain_events(timeout=2)
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.3)
        held = broker.hlen("unacked")
        got[0][1].ack()
        connection.drain_events(timeout=2)

    assert [body for body, _ in got] == [0, 1, 2, 3, 4]
    assert held == 4
    for _, message in got[1:]:
        message.ack()


def test_consumer_that_ends_early_gives_back_what_it_was_not_handed(
    redis_server: RedisServer, broker: redis.Redis
) -> None:
    got: list[Any] = []
    with connect(redis_server) as connection:
        publish(connection, *range(10))
        consumer = Consumer(connection, [Queue("q")], callbacks=[lambda body, message: got.append(message)])
        consumer.qos(prefetch_count=8)
        with consumer:
            connection.drain_events(timeout=2)
    got.pop().ack()

    wait_until(lambda: broker.llen("q") == 9 and not broker.hlen("unacked"), 2, "the others to be back")
    with connect(redis_server) as connection:
        left = [connection.default_channel.basic_get("q", no_ack=True).payload for _ in range(9)]
    assert left == list(range(1, 10))


def test_no_ack_consumer_leaves_nothing_behind(connection: Connection, broker: redis.Redis) -> None:
    publish(connection, 1, 2)
    got: list[Any] = []

    with Consumer(connection, [Queue("q")], no_ack=True, callbacks=[lambda body, _: got.append(body)]):
        connection.drain_events(timeout=2)
        connection.drain_events(timeout=2)

    assert got == [1, 2]
    wait_until(lambda: not broker.exists("unacked"), 1, "nothing to be held")


def test_batch_wakes_an_idle_consumer(connection: Connection, broker: redis.Redis) -> None:
    with connection.Producer() as producer, producer.batch(100):
        for number in range(250):
            producer.publish(number, routing_key="q", priority=number % 3)

    assert broker.llen("q") == 250
    assert broker.llen(f"q{SEP}wake") == 128
    assert broker.ttl(f"q{SEP}wake") > 0


def test_hook_may_keep_what_cannot_be_delivered(redis_server: RedisServer, broker: redis.Redis) -> None:
    seen: list[tuple[bytes, str, str]] = []

    def keep(raw: bytes, queue: str, reason: str) -> bool:
        seen.append((raw, queue, reason))
        return raw == b"first"

    broker.rpush("q", b"second", b"first")
    with connect(redis_server, on_malformed=keep) as connection:
        assert connection.default_channel.basic_get("q") is None

    assert [(raw, queue) for raw, queue, _ in seen] == [(b"first", "q"), (b"second", "q")]
    assert "not JSON" in seen[0][2]
    assert broker.llen(f"q{SEP}dead") == 1
    assert not broker.exists("unacked")


def test_message_is_renewed_while_its_holder_lives(redis_server: RedisServer, broker: redis.Redis) -> None:
    with connect(redis_server, lease_s=1.0) as holder, connect(redis_server, lease_s=1.0) as other:
        publish(holder, 1)
        message = holder.default_channel.basic_get("q")
        other_ledger = other.default_channel.ledger
        began = time.monotonic()
        given_back = wait_until(
            lambda: other_ledger.give_back_expired() or time.monotonic() - began > 2.5,
            5, "two and a half leases", every_s=0.1,
        )  # fmt: skip
        assert given_back is True
        assert broker.hlen("unacked") == 1
        message.ack()
        wait_until(lambda: not broker.exists("unacked"), 1, "the acknowledgement")


def test_message_whose_consumer_raises_comes_back(connection: Connection, broker: redis.Redis) -> None:
    publish(connection, 1, 2)

    def fail(body: Any, message: Any) -> None:
        raise LookupError(body)

    with (
        Consumer(connection, [Queue("q")], callbacks=[fail]),
        pytest.raises(LookupError, match="1"),
    ):
        connection.drain_events(timeout=2)
    gc.collect()

    wait_until(lambda: broker.llen("q") == 2, 2, "both messages to lie in the queue")
    wait_until(lambda: not broker.exists("unacked"), 1, "nothing to be held")


def test_closing_is_bounded_on_a_connection_that_went_silent(
    redis_server: RedisServer, broker: redis.Redis, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(redis_server.port)
    connection = Connection(
        f"redis://127.0.0.1:{proxy.port}/1", transport=OURS, transport_options={"socket_timeout": 1}
    )
    publish(connection, 1, 2)
    got: list[Any] = []

    def keep_first(body: object, message: Any) -> None:
        if not got:  # a message that is still referred to is not given back
            got.append(message)

    consumer = Consumer(connection, [Queue("q")], callbacks=[keep_first])
    consumer.consume()
    connection.drain_events(timeout=2)
    got[0].ack()
    connection.transport.cycle.on_poll_start()

    proxy.stall()
    began = time.monotonic()
    with contextlib.suppress(*connection.connection_errors):
        connection.release()
    took_s = time.monotonic() - began
    proxy.flow()

    assert took_s < 10
    wait_until(lambda: not broker.exists("unacked"), 20, "the acknowledgement, over another connection")
    assert broker.llen("q") == 1
