"""What every backend does with messages: order, leases, retries, delay, expiry, windows, sizes."""

from __future__ import annotations

import asyncio
import time

import pytest

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.errors import (
    AlreadySettled,
    InvalidMessage,
    LeaseLost,
    MessagingClosed,
    NotFound,
    QueueFull,
)
from pynomaly_tasks.messaging import DeadLetter, Guarantee, Kind, Message, Overflow, QueueOptions, Reason
from support.messaging import BrokerUnderTest, is_emulated, known, one, payloads, put_raw, until

NO_PAUSE = RetryPolicy(max_retries=2, backoff_s=0.0, jitter=0.0)


@pytest.mark.needs("order")
async def test_messages_come_in_the_order_they_were_sent(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q")
        await manager.send("q", 0)
        await manager.send_many("q", list(range(1, 30)))

        assert await payloads(manager, "q") == list(range(30))


async def test_higher_priority_comes_first_and_in_order_within_equals(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(kind=Kind.PRIORITY))
        priorities = [0, 255, 7, 0, 128, 255, 7, 1, 254]
        for n, priority in enumerate(priorities):
            await manager.send("q", [priority, n], priority=priority)

        expected = sorted(([p, n] for n, p in enumerate(priorities)), key=lambda pair: (-pair[0], pair[1]))
        assert await payloads(manager, "q") == expected


async def test_message_arrives_as_it_was_sent(broker: BrokerUnderTest) -> None:
    message = Message(
        payload={"ü": [1, 2.5, None, True, "\u2028"], "": {}},
        type="resize",
        headers={"trace": "00-ab"},
        priority=9,
        ttl_s=60.0,
        correlation_id="c 1",
        reply_to="answers",
    )
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(kind=Kind.PRIORITY))
        receipt = await manager.send("q", message)
        delivery = await one(manager, "q")

        assert receipt.message_id == message.id
        assert receipt.queues == ("q",)
        assert (delivery.queue, delivery.attempt) == ("q", 1)
        got = delivery.message
        assert (got.payload, got.id, got.type, got.headers) == (
            message.payload,
            message.id,
            "resize",
            {"trace": "00-ab"},
        )
        assert (got.priority, got.ttl_s, got.correlation_id, got.reply_to, got.queue) == (
            9,
            60.0,
            "c 1",
            "answers",
            "q",
        )


async def test_receive_returns_when_a_message_comes(broker: BrokerUnderTest) -> None:
    async with broker.manager() as consumer, broker.manager() as producer:
        await producer.create_queue("q")
        waiting = asyncio.create_task(consumer.receive("q", wait_s=30.0))
        await asyncio.sleep(0.05)
        started = time.monotonic()
        await producer.send("q", "hello")
        (delivery,) = await waiting

        assert delivery.message.payload == "hello"
        assert time.monotonic() - started < 1.0


async def test_every_waiting_consumer_gets_one_of_a_batch(broker: BrokerUnderTest) -> None:
    async with broker.manager() as consumer, broker.manager() as producer:
        await producer.create_queue("q")
        waiting = [asyncio.create_task(consumer.receive("q", wait_s=30.0)) for _ in range(8)]
        await asyncio.sleep(0.05)
        await producer.send_many("q", list(range(8)))
        found = [
            deliveries[0].message.payload
            for deliveries in await asyncio.wait_for(asyncio.gather(*waiting), 5.0)
        ]

        assert sorted(found) == list(range(8))


async def test_receive_gives_up_after_its_wait(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q")
        started = time.monotonic()

        assert await manager.receive("q", wait_s=0.15) == []
        assert 0.14 < time.monotonic() - started < 2.0


async def test_consumers_share_a_queue_and_nobody_gets_what_another_holds(broker: BrokerUnderTest) -> None:
    async with broker.manager() as first, broker.manager() as second:
        await first.create_queue("q")
        await first.send_many("q", list(range(10)))
        mine = await first.receive("q", max_messages=6)
        theirs = await second.receive("q", max_messages=6)

        assert [d.message.payload for d in mine] == list(range(6))
        assert [d.message.payload for d in theirs] == list(range(6, 10))
        assert (await first.statistics("q")).measure.in_flight == known(broker, 10)


async def test_unsettled_message_comes_again_when_its_lease_ends(broker: BrokerUnderTest) -> None:
    async with broker.manager() as first, broker.manager() as second:
        await first.create_queue("q", QueueOptions(lease_s=0.05))
        await first.send("q", "x")
        lost = await one(first, "q")
        again = await one(second, "q")

        assert (again.message.id, again.attempt) == (lost.message.id, 2)
        with pytest.raises(LeaseLost, match="lease of message"):
            await lost.ack()
        await again.ack()
        assert (await first.statistics("q")).measure.depth == known(broker, 0)


async def test_old_delivery_settles_nothing_when_the_same_consumer_got_the_message_again(
    broker: BrokerUnderTest,
) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(lease_s=0.02))
        await manager.send("q", "x")
        old = await one(manager, "q")
        new = await one(manager, "q", lease_s=30.0)

        for settle in (old.extend(), old.nack(), old.ack()):
            with pytest.raises((LeaseLost, AlreadySettled)):
                await settle
        await new.ack()
        assert (await manager.statistics("q")).measure.acknowledged == 1


@pytest.mark.needs("order")
async def test_recovery_finds_the_dead_consumers_entry_behind_and_before_fresh_ones(
    broker: BrokerUnderTest,
) -> None:
    async with broker.manager() as alive, broker.manager() as dead, broker.manager() as other:
        await alive.create_queue("q")
        await alive.send_many("q", list(range(300)))
        fresh = await alive.receive("q", max_messages=250)
        await dead.receive("q", max_messages=1, lease_s=0.2)
        fresh += await alive.receive("q", max_messages=49)

        found = await one(other, "q")
        assert found.message.payload == 250
        assert (await alive.statistics("q")).measure.in_flight == known(broker, 300)


@pytest.mark.needs("order")
async def test_what_was_held_comes_before_what_was_sent_later(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(kind=Kind.PRIORITY))
        for n, priority in enumerate([5, 5, 9, 5]):
            await manager.send("q", n, priority=priority)
        held = await manager.receive("q", max_messages=2)
        for delivery in held:
            await delivery.give_back()
        await manager.send("q", 4, priority=9)

        assert await payloads(manager, "q") == [2, 4, 0, 1, 3]


async def test_extended_lease_is_kept_beyond_its_first_end(broker: BrokerUnderTest) -> None:
    async with broker.manager() as first, broker.manager() as second:
        await first.create_queue("q", QueueOptions(lease_s=0.7))
        await first.send("q", "x")
        delivery = await one(first, "q")
        await delivery.extend(30.0)

        assert await second.receive("q", wait_s=1.0) == []
        await delivery.ack()


async def test_lease_that_ended_is_not_extended(broker: BrokerUnderTest) -> None:
    async with broker.manager() as first, broker.manager() as second:
        await first.create_queue("q", QueueOptions(lease_s=0.02))
        await first.send("q", "x")
        delivery = await one(first, "q")
        await one(second, "q", lease_s=30.0)

        with pytest.raises(LeaseLost):
            await delivery.extend()


async def test_delivery_is_settled_once(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q")
        await manager.send("q", "x")
        delivery = await one(manager, "q")
        await delivery.ack()

        for settle in (
            delivery.ack(),
            delivery.nack(),
            delivery.reject("no"),
            delivery.give_back(),
            delivery.extend(),
        ):
            with pytest.raises(AlreadySettled, match="settle it once"):
                await settle
        assert (await manager.statistics("q")).measure.acknowledged == 1


async def test_failed_message_is_tried_again_and_then_a_dead_letter(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(retry=NO_PAUSE))
        sent = await manager.send("q", {"n": 1})
        attempts = []
        for _ in range(3):
            delivery = await one(manager, "q")
            attempts.append((delivery.attempt, delivery.message.id))
            await delivery.nack("the printer is on fire")

        assert attempts == [(n, sent.message_id) for n in (1, 2, 3)]
        assert await manager.receive("q") == []
        (letter,) = await manager.dead_letters.list_letters("q")
        assert (letter.reason, letter.error, letter.n_attempts) == (
            Reason.RETRIES_USED_UP,
            "the printer is on fire",
            3,
        )
        measure = (await manager.statistics("q")).measure
        assert (measure.failed, measure.requeued, measure.delivered) == (1, 2, 3)
        assert measure.depth == known(broker, 0)


async def test_retry_waits_out_its_backoff_and_blocks_nobody(broker: BrokerUnderTest) -> None:
    retry = RetryPolicy(max_retries=3, backoff_s=0.9, jitter=0.0)
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(retry=retry))
        await manager.send_many("q", ["first", "second"])
        failing = await one(manager, "q")
        failed_at = time.monotonic()
        await failing.nack()

        assert (await one(manager, "q")).message.payload == "second"
        assert (await manager.statistics("q")).measure.delayed == known(broker, 1)
        assert (await one(manager, "q")).message.payload == "first"
        assert time.monotonic() - failed_at >= 0.88


async def test_message_that_kills_its_consumers_ends_as_a_dead_letter(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(lease_s=0.01, retry=NO_PAUSE))
        await manager.send("q", "poison")
        for _ in range(3):
            await one(manager, "q")

        async def letters() -> list[DeadLetter]:
            assert await manager.receive("q", wait_s=0.2) == []
            return await manager.dead_letters.list_letters("q")

        (letter,) = await until(letters, "the last lease to end")
        assert letter.reason is Reason.RETRIES_USED_UP
        assert "never settled" in letter.error


async def test_giving_back_does_not_count_as_a_try(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(retry=RetryPolicy(max_retries=0)))
        await manager.send("q", "x")
        for _ in range(4):
            delivery = await one(manager, "q")
            assert delivery.attempt == 1
            await delivery.give_back()

        assert await payloads(manager, "q") == ["x"]


async def test_rejected_message_is_a_dead_letter_at_once(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q")
        await manager.send("q", "x")
        await (await one(manager, "q")).reject("no such customer")

        (letter,) = await manager.dead_letters.list_letters("q")
        assert (letter.reason, letter.error, letter.n_attempts) == (
            Reason.HANDLER_ERROR,
            "no such customer",
            1,
        )


async def test_delayed_message_is_not_handed_out_before_and_blocks_nobody(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q")
        # What a broker has to make for the first delayed message is not to be waited for below.
        await manager.send("q", "first", delay_s=0.01)
        await (await one(manager, "q")).ack()
        sent_at = time.monotonic()
        await manager.send("q", "later", delay_s=1.2)
        await manager.send("q", "sooner", delay_s=0.9)
        await manager.send("q", "now")

        assert [(await one(manager, "q")).message.payload for _ in range(3)] == ["now", "sooner", "later"]
        assert time.monotonic() - sent_at >= 1.2


async def test_queue_of_the_kind_delay_holds_back_each_message(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(kind=Kind.DELAY, delay_s=0.8))
        sent_at = time.monotonic()
        await manager.send("q", "default")
        await manager.send("q", "now", delay_s=0.0)

        assert (await one(manager, "q")).message.payload == "now"
        assert (await one(manager, "q")).message.payload == "default"
        assert time.monotonic() - sent_at >= 0.8


async def test_expired_message_is_never_handed_out_and_counted(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(ttl_s=0.05))
        await manager.send("q", "old")
        await manager.send("q", "lasting", ttl_s=60.0)
        assert (await manager.statistics("q")).measure.depth == known(broker, 2)
        await asyncio.sleep(0.06)

        assert await payloads(manager, "q") == ["lasting"]
        (letter,) = await manager.dead_letters.list_letters("q")
        assert (letter.reason, letter.message and letter.message.payload) == (Reason.EXPIRED, "old")
        measure = (await manager.statistics("q")).measure
        assert (measure.expired, measure.delivered, measure.depth) == (1, 1, known(broker, 0))


async def test_message_can_expire_while_it_is_delayed(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q")
        await manager.send("q", "x", delay_s=0.1, ttl_s=0.02)

        assert await manager.receive("q", wait_s=0.3) == []
        assert (await manager.statistics("q")).measure.expired == 1


async def test_same_content_within_the_window_is_sent_once(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager, broker.manager() as other:
        await manager.create_queue("q", QueueOptions(deduplication_s=1.0))
        first = await manager.send("q", {"a": 1, "b": {"c": 2, "d": 3}})
        sender = manager if is_emulated(broker) else other
        second = await sender.send("q", {"b": {"d": 3, "c": 2}, "a": 1})
        await manager.send("q", {"a": 1, "b": {"c": 2, "d": 4}})

        assert (first.queues, second.queues, second.duplicates) == (("q",), (), ("q",))
        assert len(await payloads(manager, "q")) == 2

        async def is_sent_again() -> bool:
            return bool((await manager.send("q", {"a": 1, "b": {"c": 2, "d": 3}})).queues)

        await until(is_sent_again, "the window to end")


async def test_same_key_within_the_window_is_sent_once(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(deduplication_s=60.0))
        await manager.send("q", 1, deduplication_key="order-7")
        await manager.send("q", 2, deduplication_key="order-7")
        await manager.send("q", 1, deduplication_key="order-8")
        await manager.send("q", "order-7")

        assert await payloads(manager, "q") == [1, 1, "order-7"]


async def test_queue_made_anew_does_not_know_what_the_old_one_was_sent(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        for _ in range(2):
            await manager.create_queue("q", QueueOptions(deduplication_s=60.0))
            assert (await manager.send("q", "x")).queues == ("q",)
            await manager.delete_queue("q")


@pytest.mark.needs("max_size")
async def test_refused_send_does_not_poison_the_window(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(deduplication_s=60.0, max_size=1))
        await manager.send("q", "one")
        with pytest.raises(QueueFull):
            await manager.send("q", "two")
        assert await payloads(manager, "q") == ["one"]

        assert (await manager.send("q", "two")).queues == ("q",)


@pytest.mark.needs("max_size")
async def test_full_queue_refuses_until_there_is_room(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(max_size=2))
        await manager.send_many("q", [1, 2])
        delivery = await one(manager, "q")  # held counts as well

        with pytest.raises(QueueFull, match="max_size of 2 messages; 1 of 1 were not sent"):
            await manager.send("q", 3)
        await delivery.ack()
        await manager.send("q", 4)
        assert await payloads(manager, "q") == [2, 4]


@pytest.mark.needs("max_size")
async def test_full_queue_drops_its_oldest_into_the_dead_letters(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        options = QueueOptions(kind=Kind.PRIORITY, max_size=3, overflow=Overflow.DROP_OLDEST)
        await manager.create_queue("q", options)
        for n, priority in enumerate([1, 9, 1, 9, 0]):
            await manager.send("q", n, priority=priority)

        letters = await manager.dead_letters.list_letters("q")
        assert [(each.message and each.message.payload, each.reason) for each in letters] == [
            (0, Reason.OVERFLOW), (2, Reason.OVERFLOW)
        ]  # fmt: skip
        assert await payloads(manager, "q") == [1, 3, 4]
        assert (await manager.statistics("q")).measure.dropped == 2


async def test_fire_and_forget_is_settled_before_it_is_seen(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(lease_s=0.02))
        await manager.send("q", "x", guarantee=Guarantee.FIRE_AND_FORGET)
        delivery = await one(manager, "q")

        assert delivery.message.payload == "x"
        assert delivery.is_settled
        await delivery.ack()
        assert (await manager.statistics("q")).measure.depth == known(broker, 0)
        assert await manager.receive("q", wait_s=0.1) == []


async def test_depth_is_what_was_sent_and_not_done(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(retry=NO_PAUSE))
        await manager.send_many("q", list(range(6)))
        await manager.send("q", "later", delay_s=60.0)
        first, second, third = await manager.receive("q", max_messages=3)
        await first.ack()
        await second.nack()

        statistics = await manager.statistics("q")
        measure = statistics.measure
        assert (measure.sent, measure.acknowledged, measure.depth) == (7, 1, known(broker, 6))
        assert (measure.in_flight, measure.delayed, measure.requeued) == (
            known(broker, 1),
            known(broker, 1),
            1,
        )
        assert measure.oldest_age_s is None if measure.depth is None else measure.oldest_age_s >= 0.0
        assert statistics.success_rate == 1.0
        assert statistics.mean_handled_s is not None
        assert third.attempt == 1


async def test_purge_removes_what_waits_and_not_what_is_held(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(kind=Kind.PRIORITY))
        for n in range(10):
            await manager.send("q", n, priority=n)
        await manager.send("q", "later", delay_s=60.0)
        held, given_back, paused = await manager.receive("q", max_messages=3)
        await given_back.give_back()
        await paused.nack(delay_s=60.0)

        assert await manager.purge_queue("q") == 10
        assert await manager.receive("q") == []
        await held.ack()
        measure = (await manager.statistics("q")).measure
        assert (measure.depth, measure.purged, measure.acknowledged) == (known(broker, 0), 10, 1)
        await manager.send("q", "after")
        assert await payloads(manager, "q") == ["after"]


async def test_queue_that_another_process_purged_is_used_as_before(broker: BrokerUnderTest) -> None:
    async with broker.manager() as mine, broker.manager() as theirs:
        await mine.create_queue("q", QueueOptions(kind=Kind.PRIORITY))
        await mine.send("q", "later", delay_s=60.0)
        await theirs.purge_queue("q")

        measure = (await mine.statistics("q")).measure
        assert measure.depth == known(broker, 0)
        await theirs.purge_queue("q")
        assert await mine.purge_queue("q") == 0
        await mine.send("q", "soon", delay_s=0.2)
        assert (await one(mine, "q")).message.payload == "soon"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no JSON"),
        (b"\x00\xff\xfe", "no JSON"),
        (b'{"v":1,"payload":', "no JSON"),
        (b"[1]", "not an object"),
        (b'{"v":7,"payload":1}', "version is 7"),
        (b'{"v":1,"sha256":"00","payload":1}', "checksum"),
        (b'{"v":1,"sha256":"00","payload":"\xff"}', "no JSON"),
    ],
)
async def test_bytes_that_are_no_message_become_dead_letters_and_stop_nobody(
    broker: BrokerUnderTest, body: bytes, why: str
) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q")
        await put_raw(manager, "q", body)
        await manager.send("q", "fine")

        assert await payloads(manager, "q") == ["fine"]
        (letter,) = await manager.dead_letters.list_letters("q")
        assert (letter.reason, letter.raw, letter.message) == (Reason.UNREADABLE, body, None)
        assert why in letter.error


async def test_nothing_is_done_with_a_closed_manager(broker: BrokerUnderTest) -> None:
    manager = broker.manager()
    with pytest.raises(MessagingClosed, match="not open"):
        await manager.create_queue("q")
    async with manager:
        await manager.create_queue("q")
        await manager.send("q", 1)
        delivery = await one(manager, "q")

    for call in (
        manager.send("q", 2),
        manager.receive("q"),
        delivery.ack(),
        manager.health(),
        manager.list_queues(),
    ):
        with pytest.raises(MessagingClosed):
            await call


async def test_waiting_consumer_hears_that_its_manager_was_closed(broker: BrokerUnderTest) -> None:
    for begun_s in (0.0, 0.001, 0.003, 0.05):  # at each step of its way to the broker, and at the end of it
        async with broker.manager() as manager:
            await manager.create_queue("q")
            waiting = asyncio.create_task(manager.receive("q", wait_s=30.0))
            await asyncio.sleep(begun_s)

        with pytest.raises(MessagingClosed):
            await asyncio.wait_for(waiting, 5.0)


async def test_cancelled_wait_takes_nothing_and_leaves_the_message_to_others(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager, broker.manager() as other:
        await manager.create_queue("q")
        for n in range(5):
            waiting = asyncio.create_task(manager.receive("q", wait_s=30.0))
            await asyncio.sleep(0.02)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await other.send("q", n)
            assert (await one(other, "q")).message.payload == n


async def test_queue_that_was_deleted_takes_and_gives_nothing(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager, broker.manager() as other:
        await manager.create_queue("q")
        await other.send("q", 1)
        held = await one(other, "q")
        await other.send("q", 2)
        await manager.delete_queue("q")

        for call in (
            other.send("q", 3),
            other.receive("q"),
            manager.send_many("q", [4]),
            manager.purge_queue("q"),
        ):
            with pytest.raises(NotFound, match="no queue 'q'"):
                await call
        with pytest.raises(LeaseLost):
            await held.ack()
        await manager.create_queue("q")
        assert (await other.send("q", 5)).queues == ("q",)
        again = await one(other, "q")
        with pytest.raises(AlreadySettled):
            await held.ack()
        assert again.message.payload == 5
        measure = (await manager.statistics("q")).measure
        assert (measure.depth, measure.in_flight) == (known(broker, 1), known(broker, 1))
        assert measure.sent == 1 or is_emulated(broker)


async def test_waiting_consumer_hears_that_its_queue_was_deleted(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager, broker.manager() as other:
        await manager.create_queue("q")
        waiting = asyncio.create_task(other.receive("q", wait_s=30.0))
        await asyncio.sleep(0.05)
        await manager.delete_queue("q")

        with pytest.raises(NotFound):
            await asyncio.wait_for(waiting, 5.0)


async def test_priority_is_refused_by_a_queue_without_priorities(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q")

        with pytest.raises(InvalidMessage, match=r"priority: is 3, and the queue q is of the kind fifo"):
            await manager.send("q", 1, priority=3)
