"""What backends that keep settled messages do with them: send them again, from a time or an offset on."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.errors import InvalidQueue, NotFound, NotSupported, QueueFull
from pynomaly_tasks.messaging import Kind, QueueOptions, Support
from support.messaging import BrokerUnderTest, one, payloads

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


async def test_replay_is_refused_by_a_backend_without_it_and_names_those_that_have_it(
    broker: BrokerUnderTest,
) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q")
        manager.backend.capabilities = replace(manager.backend.capabilities, replay=Support.ABSENT)

        with pytest.raises(NotSupported, match=r"has no replay; these have it: .*kafka"):
            await manager.replay("q", since=LONG_AGO)


@pytest.mark.needs("replay")
async def test_acknowledged_messages_are_sent_again_in_order_and_the_others_are_not(
    broker: BrokerUnderTest,
) -> None:
    retry = RetryPolicy(max_retries=3, backoff_s=60.0, jitter=0.0)
    async with broker.manager() as manager, broker.manager() as other:
        await manager.create_queue("q", QueueOptions(retry=retry, ttl_s=60.0))
        await manager.send_many("q", ["a", "failed", "b", "given back", "dead", "held", "waits"])
        first, failed, second, back, dead, held = await manager.receive("q", max_messages=6)
        await first.ack()
        await failed.nack()
        await second.ack()
        await back.give_back()
        await (await one(manager, "q")).ack()
        await dead.reject("no")

        assert await other.replay("q", since=LONG_AGO) == 3
        again = await manager.receive("q", max_messages=10)
        assert [each.message.payload for each in again] == ["waits", "a", "b", "given back"]
        assert (again[1].message.id, again[1].attempt) == (first.message.id, 1)
        for each in [*again, held]:
            await each.ack()


@pytest.mark.needs("replay")
async def test_message_is_sent_again_once_however_often_it_was_replayed(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(kind=Kind.PRIORITY))
        for n in range(4):
            await manager.send("q", n, priority=n)
        for _ in range(3):
            assert await payloads(manager, "q") == [3, 2, 1, 0]
            assert await manager.replay("q", since=LONG_AGO) == 4

        assert await manager.replay("q", since=LONG_AGO) == 0


@pytest.mark.needs("replay")
async def test_replay_begins_at_a_time_or_an_offset(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q")
        await manager.send_many("q", [0, 1, 2])
        assert await payloads(manager, "q") == [0, 1, 2]
        await asyncio.sleep(0.05)
        between = datetime.now(UTC)
        await asyncio.sleep(0.05)
        await manager.send_many("q", [3, 4])
        assert await payloads(manager, "q") == [3, 4]

        assert await manager.replay("q", since=between) == 2
        assert await payloads(manager, "q") == [3, 4]
        assert await manager.replay("q", since=2) == 3
        assert await payloads(manager, "q") == [2, 3, 4]
        assert await manager.replay("q", since=10_000) == 0
        assert await manager.replay("q", since=datetime.now(UTC) + timedelta(hours=1)) == 0


@pytest.mark.needs("replay")
async def test_replay_of_many_stops_where_the_queue_is_full_and_says_so(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(max_size=700))
        await manager.send_many("q", list(range(600)))
        assert await payloads(manager, "q") == list(range(600))
        assert await manager.replay("q", since=0) == 600
        assert await payloads(manager, "q") == list(range(600))
        await manager.send_many("q", list(range(600, 1_100)))

        with pytest.raises(QueueFull, match="200 messages were sent again, the rest was not"):
            await manager.replay("q", since=0)


@pytest.mark.needs("replay")
@pytest.mark.parametrize("since", [-1, True, "yesterday", 1.5, None, datetime(2026, 1, 1)])
async def test_start_that_cannot_be_is_refused(broker: BrokerUnderTest, since: Any) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q")
        with pytest.raises(InvalidQueue, match="since: "):
            await manager.replay("q", since=since)
        with pytest.raises(NotFound, match="no queue 'r'"):
            await manager.replay("r", since=0)
