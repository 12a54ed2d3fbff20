"""Message queues on RabbitMQ whose operator set a policy: what the server drops by it is a dead letter."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.errors import BrokerUnavailable, QueueExists
from pynomaly_tasks.messaging import Kind, QueueManager, QueueOptions, Reason, build_backend
from pynomaly_tasks.messaging.dead_letters import DeadLetter
from support.kafka_topics import unique_name
from support.messaging import one, payloads, until
from support.rabbitmq import RabbitServer

SetPolicy = Callable[..., None]


@pytest.fixture
def namespace() -> str:
    return unique_name("policy")


@pytest.fixture
def set_policy(rabbitmq: RabbitServer, namespace: str) -> Iterator[SetPolicy]:
    """For the queues of the namespace, but not for their dead letters."""

    def set_it(**definition: object) -> None:
        text = json.dumps({name.replace("_", "-"): value for name, value in definition.items()})
        pattern = f"^{namespace}/q(@[^d].*)?$"
        rabbitmq.control("set_policy", "--apply-to", "queues", namespace, pattern, text)

    set_it(max_length=1_000_000)
    yield set_it
    rabbitmq.control("clear_policy", namespace)


@asynccontextmanager
async def _stranger(server: RabbitServer) -> AsyncIterator[AbstractChannel]:
    async with await aio_pika.connect(server.url) as connection, connection.channel() as channel:
        yield channel


async def _letters(manager: QueueManager, n: int) -> list[DeadLetter]:
    async def are_there() -> list[DeadLetter]:
        letters = await manager.dead_letters.list_letters("q")
        return letters if len(letters) >= n else []

    letters = await until(are_there, f"{n} dead letters")
    assert len(letters) == n
    return letters


async def test_message_that_outlives_a_policy_is_an_expired_letter_and_is_sent_again(
    rabbitmq: RabbitServer, namespace: str, set_policy: SetPolicy
) -> None:
    set_policy(message_ttl=300)
    began_at = time.time()
    async with QueueManager(build_backend("rabbitmq", rabbitmq.url, namespace=namespace)) as manager:
        await manager.create_queue("q", QueueOptions(kind=Kind.PRIORITY))
        await manager.send("q", {"n": 1}, topic="order.paid")
        await manager.send("q", {"n": 2}, priority=9)
        async with _stranger(rabbitmq) as stranger:
            for body in (b"\xff not ours", b"neither"):
                await stranger.default_exchange.publish(aio_pika.Message(body), f"{namespace}/q")
        letters = {letter.raw if letter.message is None else letter.message.payload["n"]: letter
                   for letter in await _letters(manager, 4)}  # fmt: skip
        set_policy(max_length=1_000_000)

        assert set(letters) == {1, 2, b"\xff not ours", b"neither"}
        assert {letter.reason for letter in letters.values()} == {Reason.EXPIRED}
        assert all(
            "message-ttl that a policy of RabbitMQ sets (expired)" in each.error for each in letters.values()
        )
        assert all(abs(each.dead_at.timestamp() - began_at) < 30.0 for each in letters.values())
        assert (letters[1].queue, letters[1].n_attempts, letters[2].priority) == ("q", 0, 9)
        assert (await manager.statistics("q")).n_dead_letters == 4
        assert await payloads(manager, "q") == []

        await manager.dead_letters.discard("q", letters[b"neither"].id)
        assert letters[1].message is not None
        shown = await manager.dead_letters.show("q", letters[b"\xff not ours"].id)
        assert shown.raw == b"\xff not ours"
        assert await manager.dead_letters.redrive_all("q") == 3
        assert await payloads(manager, "q") == [{"n": 2}, {"n": 1}]
        (letter,) = await manager.dead_letters.list_letters("q")
        assert (letter.raw, letter.reason) == (b"\xff not ours", Reason.UNREADABLE)


async def test_message_that_a_policy_lets_nobody_try_again_is_a_letter_whose_retries_are_used_up(
    rabbitmq: RabbitServer, namespace: str, set_policy: SetPolicy
) -> None:
    retry = RetryPolicy(max_retries=10, backoff_s=0.0)
    async with QueueManager(build_backend("rabbitmq", rabbitmq.url, namespace=namespace)) as manager:
        await manager.create_queue("q", QueueOptions(retry=retry))
        await manager.send("q", "poison")
        set_policy(delivery_limit=2)
        for attempt in (1, 2, 3):
            delivery = await one(manager, "q")
            assert delivery.attempt == attempt
            await delivery.nack("not now")
        (letter,) = await _letters(manager, 1)

        assert letter.reason is Reason.RETRIES_USED_UP
        assert "delivery-limit that a policy of RabbitMQ sets (delivery_limit)" in letter.error
        await manager.dead_letters.redrive("q", letter.id)
        assert (await one(manager, "q")).message.payload == "poison"


async def test_queue_that_a_policy_keeps_short_refuses_what_is_sent_and_drops_nothing(
    rabbitmq: RabbitServer, namespace: str, set_policy: SetPolicy
) -> None:
    async with QueueManager(build_backend("rabbitmq", rabbitmq.url, namespace=namespace)) as manager:
        await manager.create_queue("q")
        await manager.send("q", 0)
        set_policy(max_length=3)
        sent, refused = [0], []

        async def is_refused() -> bool:
            try:
                await manager.send("q", len(sent))
            except BrokerUnavailable as error:
                refused.append(str(error))
            else:
                sent.append(len(sent))
            return bool(refused)

        # The server lets a few more in than it should.
        await until(is_refused, "a message to be refused")
        assert len(sent) <= 6
        assert "as long as a policy lets it be (max-length)" in refused[0]
        assert await payloads(manager, "q") == sent
        assert await manager.dead_letters.list_letters("q") == []


async def test_queue_without_dead_letters_keeps_none_of_what_a_policy_drops(
    rabbitmq: RabbitServer, namespace: str, set_policy: SetPolicy
) -> None:
    set_policy(message_ttl=100)
    async with QueueManager(build_backend("rabbitmq", rabbitmq.url, namespace=namespace)) as manager:
        await manager.create_queue("q", QueueOptions(dead_letters=False))
        await manager.send_many("q", [1, 2])

        async def is_empty() -> bool:
            return (await manager.statistics("q")).measure.depth == 0

        await until(is_empty, "the messages to be dropped")
        assert await manager.dead_letters.list_letters("q") == []


async def test_purged_and_deleted_messages_are_no_letters(rabbitmq: RabbitServer, namespace: str) -> None:
    async with QueueManager(build_backend("rabbitmq", rabbitmq.url, namespace=namespace)) as manager:
        await manager.create_queue("q")
        await manager.send_many("q", [1, 2, 3])
        assert await manager.purge_queue("q") == 3
        await manager.send("q", 4)
        await manager.delete_queue("q")
        await manager.create_queue("q")
        await manager.send("q", 5)

        assert await payloads(manager, "q") == [5]
        assert await manager.dead_letters.list_letters("q") == []


async def test_queue_that_was_made_otherwise_is_named_with_what_to_do(
    rabbitmq: RabbitServer, namespace: str
) -> None:
    async with (
        _stranger(rabbitmq) as stranger,
        QueueManager(build_backend("rabbitmq", rabbitmq.url, namespace=namespace)) as manager,
    ):
        name = f"{namespace}/q"
        await stranger.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})
        await manager.create_queue("q")
        with pytest.raises(QueueExists, match=f"remove it by `rabbitmqctl delete_queue {name}`") as caught:
            await manager.send("q", 1)
        assert "PRECONDITION_FAILED" in str(caught.value)

        await stranger.queue_delete(name)
        await manager.send("q", 2)
        assert await payloads(manager, "q") == [2]


async def test_what_a_policy_drops_is_among_the_letters_also_when_the_server_is_killed_meanwhile(
    own_rabbitmq: RabbitServer, namespace: str
) -> None:
    own_rabbitmq.control(
        "set_policy", "--apply-to", "queues", namespace, f"^{namespace}/q$", '{"message-ttl": 1500}'
    )
    async with QueueManager(build_backend("rabbitmq", own_rabbitmq.url, namespace=namespace)) as manager:
        await manager.create_queue("q")
        await manager.send("q", 0)
        own_rabbitmq.wait_until_streams_last()
        await manager.send_many("q", list(range(1, 2_000)))

        async def are_moving() -> bool:
            return (await manager.statistics("q")).n_dead_letters > 100

        async def are_there() -> set[int]:
            try:
                letters = await manager.dead_letters.list_letters("q", limit=5_000)
            except BrokerUnavailable:
                return set()
            found = {letter.message.payload for letter in letters if letter.message is not None}
            return found if len(found) == 2_000 else set()

        await until(are_moving, "the first letters")
        own_rabbitmq.restart()
        assert await until(are_there, "all 2,000 letters", timeout_s=60.0) == set(range(2_000))
