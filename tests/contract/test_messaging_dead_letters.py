"""What every backend does with dead letters: they are listed, shown, sent again and discarded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pynomaly_tasks.errors import NotFound
from pynomaly_tasks.messaging import Kind, QueueManager, QueueOptions, Reason, dead_letters
from pynomaly_tasks.messaging.topology import dead_channel
from support.messaging import BrokerUnderTest, one, payloads, put_raw


async def _reject(manager: QueueManager, queue: str, n: int) -> None:
    await manager.send_many(queue, list(range(n)))
    for _ in range(n):
        await (await one(manager, queue)).reject("no")


async def test_letter_tells_what_happened(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.subscribe("q", "a.#", options=QueueOptions(kind=Kind.PRIORITY))
        receipt = await manager.publish("a.b", {"x": 1}, priority=3, headers={"h": "v"})
        await (await one(manager, "q")).reject("broken \ud800 text")
        (letter,) = await manager.dead_letters.list_letters("q")

        assert (letter.queue, letter.topic, letter.message_id) == ("q", "a.b", receipt.message_id)
        assert (letter.reason, letter.error, letter.n_attempts) == (Reason.HANDLER_ERROR, "broken ? text", 1)
        assert abs(letter.dead_at - datetime.now(UTC)) < timedelta(minutes=1)
        assert letter.message is not None
        assert (letter.message.payload, letter.message.headers, letter.message.priority) == (
            {"x": 1},
            {"h": "v"},
            3,
        )
        assert await manager.dead_letters.show("q", letter.id) == letter


async def test_letters_are_listed_oldest_first_and_page_by_page(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q")
        await manager.create_queue("r")
        await _reject(manager, "r", 2)
        await _reject(manager, "q", 5)
        letters = manager.dead_letters
        page = await letters.list_letters("q", limit=3)
        rest = await letters.list_letters("q", limit=3, after=page[-1].id)

        assert [each.message and each.message.payload for each in page + rest] == [0, 1, 2, 3, 4]
        assert [each.queue for each in await letters.list_letters()] == ["q"] * 5 + ["r"] * 2
        assert len(await letters.list_letters(limit=6)) == 6
        assert (await manager.statistics("q")).n_dead_letters == 5
        assert (await manager.statistics()).n_dead_letters == 7


async def test_redriven_letter_is_tried_from_the_start_under_its_old_id(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(ttl_s=60.0))
        receipt = await manager.send("q", "x")
        await (await one(manager, "q")).reject("no")
        (letter,) = await manager.dead_letters.list_letters("q")
        await manager.dead_letters.redrive("q", letter.id)
        delivery = await one(manager, "q")

        assert (delivery.message.id, delivery.attempt, delivery.message.payload) == (
            receipt.message_id,
            1,
            "x",
        )
        assert await manager.dead_letters.list_letters("q") == []
        with pytest.raises(NotFound, match="no dead letter"):
            await manager.dead_letters.redrive("q", letter.id)


async def test_all_letters_of_a_queue_are_redriven_or_discarded(
    broker: BrokerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "_PAGE", 20)
    async with broker.manager() as manager:
        await manager.create_queue("q")
        await _reject(manager, "q", 45)

        assert await manager.dead_letters.redrive_all("q") == 45
        assert await payloads(manager, "q") == list(range(45))
        await _reject(manager, "q", 3)
        assert await manager.dead_letters.discard_all("q") == 3
        assert await manager.dead_letters.list_letters() == []


async def test_one_letter_is_discarded(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q")
        await _reject(manager, "q", 3)
        letters = await manager.dead_letters.list_letters("q")
        await manager.dead_letters.discard("q", letters[1].id)

        assert [each.id for each in await manager.dead_letters.list_letters("q")] == [
            letters[0].id,
            letters[2].id,
        ]
        for wrong in (letters[1].id, "nonsense", "", "0", "99999999"):
            with pytest.raises(NotFound):
                await manager.dead_letters.show("q", wrong)


async def test_letters_outlive_their_queue(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q")
        await _reject(manager, "q", 1)
        await manager.delete_queue("q")
        (letter,) = await manager.dead_letters.list_letters()

        with pytest.raises(NotFound, match="no queue 'q'"):
            await manager.dead_letters.redrive("q", letter.id)
        await manager.create_queue("q")
        await manager.dead_letters.redrive("q", letter.id)
        assert await payloads(manager, "q") == [0]
        await manager.delete_queue("q")
        assert await manager.dead_letters.discard_all("q") == 0


async def test_queue_without_dead_letters_keeps_none_and_counts(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(dead_letters=False))
        await _reject(manager, "q", 2)
        await put_raw(manager, "q", b"junk")

        assert await manager.receive("q") == []
        assert await manager.dead_letters.list_letters() == []
        assert (await manager.statistics("q")).measure.failed == 3


@pytest.mark.parametrize("body", [b"", b"\xff", b"[1]", b'{"raw":5}', b'{"raw":"","dead_at":"2026"}'])
async def test_bytes_that_are_no_letter_are_listed_beside_the_others_and_discarded(
    broker: BrokerUnderTest, body: bytes
) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q")
        await put_raw(manager, dead_channel("q"), body)
        await _reject(manager, "q", 1)

        strange, letter = await manager.dead_letters.list_letters("q")
        assert (strange.reason, strange.raw, strange.message) == (Reason.UNREADABLE, body, None)
        assert "another program" in strange.error
        assert letter.reason is Reason.HANDLER_ERROR
        assert await manager.dead_letters.discard_all("q") == 2
        assert await manager.dead_letters.list_letters("q") == []


async def test_unreadable_letter_is_redriven_as_it_was(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q")
        await put_raw(manager, "q", b"\xff junk")
        assert await manager.receive("q") == []
        await manager.dead_letters.redrive_all("q")
        assert await manager.receive("q") == []

        (letter,) = await manager.dead_letters.list_letters("q")
        assert (letter.raw, letter.reason) == (b"\xff junk", Reason.UNREADABLE)
