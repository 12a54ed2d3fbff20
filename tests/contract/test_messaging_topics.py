"""What every backend does with subscribers: copies, routes, confirmations, and topics without any."""

from __future__ import annotations

import asyncio

import pytest

from pynomaly_tasks.errors import (
    Conflict,
    InvalidMessage,
    InvalidQueue,
    NotConfirmed,
    NotFound,
    QueueExists,
    QueueFull,
)
from pynomaly_tasks.messaging import STANDARD, Guarantee, Kind, QueueOptions, Reason, Route
from support.messaging import BrokerUnderTest, changes_are_seen, one, payloads


async def test_each_matching_subscriber_gets_one_copy(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.subscribe("all", "#")
        await manager.subscribe("orders", "order.*")
        await manager.subscribe("orders", "order.#")
        await manager.subscribe("paid", "*.paid")
        await manager.subscribe("users", "user.#")
        receipt = await manager.publish("order.paid", {"n": 7})

        assert receipt.queues == ("all", "orders", "paid")
        for queue in receipt.queues:
            (delivery,) = await manager.receive(queue, max_messages=10)
            assert (delivery.message.topic, delivery.message.payload) == ("order.paid", {"n": 7})
            assert delivery.message.id == receipt.message_id
        assert await manager.receive("users") == []


async def test_processes_of_one_subscriber_share_its_messages(broker: BrokerUnderTest) -> None:
    async with broker.manager() as first, broker.manager() as second:
        await first.subscribe("mailer", "order.#")
        await second.subscribe("mailer", "order.#")
        for n in range(4):
            await first.publish("order.paid", n)

        mine = await first.receive("mailer", max_messages=2)
        theirs = await second.receive("mailer", max_messages=10)
        assert [d.message.payload for d in (*mine, *theirs)] == [0, 1, 2, 3]


async def test_subscription_of_another_process_counts_from_the_next_message_on(
    broker: BrokerUnderTest,
) -> None:
    async with broker.manager() as publisher, broker.manager() as subscriber:
        await subscriber.subscribe("a", "t")
        await publisher.publish("t", 1)
        await subscriber.subscribe("b", "t")
        await changes_are_seen(broker)
        assert (await publisher.publish("t", 2)).queues == ("a", "b")
        await subscriber.unsubscribe("a", "t")
        await changes_are_seen(broker)
        assert (await publisher.publish("t", 3)).queues == ("b",)

        assert await payloads(subscriber, "a") == [1, 2]
        assert await payloads(subscriber, "b") == [2, 3]
        assert await publisher.subscriptions() == {"b": ["t"]}
        with pytest.raises(NotFound, match="no subscription"):
            await subscriber.unsubscribe("a", "t")


async def test_message_that_nobody_subscribed_to_is_a_dead_letter_and_can_be_redriven(
    broker: BrokerUnderTest,
) -> None:
    async with broker.manager() as manager:
        receipt = await manager.publish("lost.topic", {"n": 1})
        (letter,) = await manager.dead_letters.list_letters()

        assert receipt.queues == ()
        assert (letter.queue, letter.topic, letter.reason) == ("", "lost.topic", Reason.NO_SUBSCRIBER)
        assert letter.message_id == receipt.message_id
        with pytest.raises(Conflict, match="still nobody"):
            await manager.dead_letters.redrive("", letter.id)
        await manager.subscribe("late", "lost.*")
        await manager.dead_letters.redrive("", letter.id)
        assert (await one(manager, "late")).message.id == receipt.message_id
        assert await manager.dead_letters.list_letters() == []


async def test_routes_choose_among_the_matching(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.subscribe("a", "t", rank=1)
        await manager.subscribe("b", "t", rank=5)
        await manager.subscribe("c", "#", rank=5)
        in_turn = [(await manager.publish("t", n, route=Route.ROUND_ROBIN)).queues for n in range(4)]
        by_rank = (await manager.publish("t", 4, route=Route.PRIORITY)).queues

        assert in_turn == [("a",), ("b",), ("c",), ("a",)]
        assert by_rank == ("b",)


@pytest.mark.needs("depth")
async def test_least_loaded_of_the_matching_is_chosen(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        for name in ("a", "b", "c"):
            await manager.subscribe(name, "t")
        for name in ("a", "b", "a"):
            await manager.send(name, "before")

        assert (await manager.publish("t", 1, route=Route.LEAST_LOADED)).queues == ("c",)


async def test_fan_out_has_a_limit(broker: BrokerUnderTest) -> None:
    async with broker.manager(max_fan_out=2) as manager:
        for name in ("a", "b", "c"):
            await manager.subscribe(name, "t")

        with pytest.raises(InvalidMessage, match="3 subscribers match 't', and max_fan_out is 2"):
            await manager.publish("t", 1)
        assert [await payloads(manager, name) for name in ("a", "b", "c")] == [[], [], []]


@pytest.mark.needs("confirmations")
async def test_broadcast_is_complete_when_every_subscriber_acknowledged(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager, broker.manager() as other:
        for name in ("a", "b", "c"):
            await manager.subscribe(name, "t")
        receipt = await manager.publish("t", 1, guarantee=Guarantee.BROADCAST)
        await payloads(other, "a")
        await payloads(other, "b")

        with pytest.raises(NotConfirmed, match=r"2 of the 3 .* missing: c$"):
            await receipt.wait(0.05)
        done = asyncio.create_task(receipt.wait(10.0))
        await payloads(other, "c")
        assert await done == {"a", "b", "c"}


@pytest.mark.needs("confirmations")
async def test_quorum_counts_different_subscribers_that_received(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager, broker.manager() as other:
        options = QueueOptions(lease_s=0.02)
        for name in ("a", "b", "c"):
            await manager.subscribe(name, "t", options=options)
        await manager.subscribe("stranger", "other", options=options)
        receipt = await manager.publish("t", 1, guarantee=Guarantee.QUORUM, quorum=2)
        late = await one(manager, "a")
        await (await one(other, "a", lease_s=30.0)).ack()
        with pytest.raises(Conflict):
            await late.ack()
        stranger = await manager.publish("other", 1, guarantee=Guarantee.QUORUM, quorum=1)
        await payloads(manager, "stranger")

        assert await stranger.wait(5.0) == {"stranger"}
        assert await receipt.confirmed_by() == {"a"}
        with pytest.raises(NotConfirmed, match="1 of the 2"):
            await receipt.wait(0.05)
        await payloads(manager, "c")
        assert await receipt.wait(5.0) == {"a", "c"}


@pytest.mark.parametrize(
    ("quorum", "why"), [(0, "from 1 on"), (-1, "from 1 on"), (None, "from 1 on"), (3, "2 subscribers")]
)
async def test_quorum_that_cannot_be_is_refused_before_anything_is_sent(
    broker: BrokerUnderTest, quorum: int | None, why: str
) -> None:
    async with broker.manager() as manager:
        await manager.subscribe("a", "t")
        await manager.subscribe("b", "t")

        with pytest.raises(InvalidMessage, match=f"quorum: .*{why}"):
            await manager.publish("t", 1, guarantee=Guarantee.QUORUM, quorum=quorum)
        assert await payloads(manager, "a") == []


@pytest.mark.needs("max_size")
async def test_copy_for_a_full_subscriber_is_kept_and_said(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.subscribe("small", "t", options=QueueOptions(max_size=1))
        await manager.subscribe("big", "t")
        await manager.publish("t", 1)
        receipt = await manager.publish("t", 2)

        assert (receipt.queues, receipt.full) == (("big",), ("small",))
        (letter,) = await manager.dead_letters.list_letters("small")
        assert (letter.reason, letter.message and letter.message.payload) == (Reason.OVERFLOW, 2)
        await manager.unsubscribe("big", "t")
        with pytest.raises(QueueFull, match="every subscriber"):
            await manager.publish("t", 3)


async def test_priority_of_a_topics_message_counts_where_the_queue_has_priorities(
    broker: BrokerUnderTest,
) -> None:
    async with broker.manager() as manager:
        await manager.subscribe("ranked", "t", options=QueueOptions(kind=Kind.PRIORITY))
        await manager.subscribe("plain", "t")
        for priority in (1, 200, 1):
            await manager.publish("t", priority, priority=priority)

        assert await payloads(manager, "ranked") == [200, 1, 1]
        assert await payloads(manager, "plain") == [1, 200, 1]


async def test_creating_a_queue_again_is_fine_with_the_same_options_only(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager, broker.manager() as other:
        await manager.create_queue("q", QueueOptions(lease_s=5.0))
        await manager.send("q", 1)
        await other.create_queue("q", QueueOptions(lease_s=5.0))

        with pytest.raises(QueueExists, match=r"lease_s is 5.0 and not 30.0"):
            await other.create_queue("q")
        assert await other.list_queues() == {"q": QueueOptions(lease_s=5.0)}
        assert await payloads(other, "q") == [1]


async def test_queues_are_listed_and_deleted_for_all(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager, broker.manager() as other:
        await manager.create_queue("b")
        await manager.subscribe("a", "x.#")
        assert list(await other.list_queues()) == ["a", "b"]
        await other.delete_queue("a")

        assert await manager.list_queues() == {"b": STANDARD}
        assert await manager.subscriptions() == {}
        assert (await manager.publish("x.y", 1)).queues == ()
        with pytest.raises(NotFound, match="no queue 'a'"):
            await other.delete_queue("a")


async def test_health_names_the_backend(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q")
        health = await manager.health()

        assert (health.backend, health.n_queues) == (manager.backend.name, 1)
        assert 0.0 <= health.round_trip_s < 5.0


async def test_capability_that_is_absent_is_refused_with_the_backends_that_have_it(
    broker: BrokerUnderTest,
) -> None:
    from dataclasses import replace

    from pynomaly_tasks.messaging import Overflow, Support

    async with broker.manager() as manager:
        asked = {
            "priority": QueueOptions(kind=Kind.PRIORITY),
            "delay": QueueOptions(kind=Kind.DELAY),
            "deduplication": QueueOptions(deduplication_s=1.0),
            "ttl": QueueOptions(ttl_s=1.0),
            "max_size": QueueOptions(max_size=1, overflow=Overflow.DROP_OLDEST),
            "dead_letters": STANDARD,
        }
        able = manager.backend.capabilities
        for capability, options in asked.items():
            manager.backend.capabilities = replace(able, **{capability: Support.ABSENT})
            with pytest.raises(
                InvalidQueue, match=f"has no {capability}; these have it: memory, redis_streams"
            ):
                await manager.create_queue(capability, options)
        manager.backend.capabilities = able

        assert await manager.list_queues() == {}


def test_manager_is_opened_again_in_another_loop(broker: BrokerUnderTest) -> None:
    manager = broker.manager()

    async def use(n: int) -> list[int]:
        async with manager:
            await manager.create_queue("q")
            await asyncio.gather(*(manager.send("q", n) for _ in range(50)))
            return await payloads(manager, "q")

    assert [asyncio.run(use(n)) for n in range(3)] == [[n] * 50 for n in range(3)]
