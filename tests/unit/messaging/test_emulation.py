"""What the emulation layer adds to a broker that only keeps items, each part where its edges are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynomaly_tasks.errors import BrokerUnavailable, QueueFull
from pynomaly_tasks.messaging import Kind, QueueManager, QueueOptions, Reason
from pynomaly_tasks.messaging.backend import Catalog
from pynomaly_tasks.messaging.emulation import EmulatedBackend, delays, windows
from pynomaly_tasks.messaging.emulation.catalog import CatalogCache
from pynomaly_tasks.messaging.emulation.head import Head, read_head
from pynomaly_tasks.messaging.emulation.lanes import LaneBook, lanes_of, split_lane
from pynomaly_tasks.messaging.emulation.windows import Windows
from pynomaly_tasks.messaging.options import MAX_SECONDS
from pynomaly_tasks.messaging.plain_broker import Item
from support.messaging import one, payloads, until
from support.plain_memory import PlainMemoryBroker, PlainMemoryServer, refuse

HEADS = st.builds(
    Head,
    message_id=st.text(max_size=128),
    priority=st.integers(0, 255),
    n_deliveries=st.integers(0, 0xFFFF),
    is_front=st.booleans(),
    sent_at=st.floats(0.0, 4e9),
    due_at=st.floats(0.0, 4e9),
    expires_at=st.floats(0.0, 4e9),
    until_at=st.floats(0.0, 4e9),
)


def _run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def _manager(server: PlainMemoryServer) -> QueueManager:
    return QueueManager(EmulatedBackend(PlainMemoryBroker(server)))


@given(HEADS, st.binary(max_size=200))
def test_head_and_body_come_out_as_they_went_in(head: Head, body: bytes) -> None:
    assert read_head(head.wrap(body)) == (head, body)


@given(HEADS, st.binary(max_size=20), st.data())
def test_part_of_a_head_is_a_strangers_bytes(head: Head, body: bytes, data: st.DataObject) -> None:
    whole = head.wrap(body)
    part = whole[: data.draw(st.integers(0, len(whole) - len(body) - 1))]

    assert read_head(part) == (Head(), part)


@given(st.binary(max_size=100))
def test_bytes_of_strangers_are_kept_whole(data: bytes) -> None:
    assert read_head(data) == (Head(), data)


@given(st.floats(0.001, MAX_SECONDS))
def test_delayed_item_leaves_its_last_lane_when_it_is_due_after_few_moves(delay_s: float) -> None:
    broker = PlainMemoryBroker(PlainMemoryServer())
    book = LaneBook(broker, CatalogCache(broker))
    start = now = 1.8e9
    head = Head(due_at=start + delay_s)
    lanes = []
    while True:
        item = book.place("q", head, b"", now)
        if item.lane == "q":
            break
        lanes.append(int(split_lane(item.lane)[1][1:]))
        head, _ = read_head(item.data)
        assert now < head.until_at <= head.due_at
        now = head.until_at

    assert now == head.due_at
    assert lanes == sorted(lanes, reverse=True)
    assert len(lanes) <= 3 * 13 + 1


def test_lanes_of_a_channel_are_those_in_the_catalog_the_best_first() -> None:
    marks = ["p7", "f0", "p255", "f7", "d16", "d0", "d4"]
    records = {f"lane/q/{mark}": b"1" for mark in marks} | {"lane/q2/p9": b"1", "queue/q": b"{}"}
    lanes = lanes_of("q", Catalog(1, records))

    assert lanes.main == ("q!p255", "q!f7", "q!p7", "q!f0", "q")
    assert lanes.lowest_first() == ("q!f0", "q", "q!f7", "q!p7", "q!p255")
    assert lanes.delay == ("q!d0", "q!d4", "q!d16")
    assert split_lane("q!dead") == ("q!dead", "")
    assert split_lane("q!dead!d4") == ("q!dead", "d4")


def test_fingerprints_are_bounded_and_end_with_their_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "MAX_FINGERPRINTS", 100)

    async def test() -> None:
        seen = Windows()
        for n in range(150):
            assert await seen.claim("q", str(n))
            seen.keep("q", str(n), 60.0)
        assert not await seen.claim("q", "149")
        assert await seen.claim("q", "49")
        seen.drop("q", "49")
        assert await seen.claim("r", "149")
        seen.keep("r", "149", 0.0)
        assert await seen.claim("r", "149")

    _run(test)


def test_sender_waits_for_what_becomes_of_the_same_message_sent_at_once() -> None:
    async def test() -> None:
        seen = Windows()
        assert await seen.claim("q", "k")
        second = asyncio.create_task(seen.claim("q", "k"))
        third = asyncio.create_task(seen.claim("q", "k"))
        await asyncio.sleep(0.01)
        assert not second.done()
        seen.drop("q", "k")  # the first was not sent
        assert await second
        seen.keep("q", "k", 60.0)
        assert not await third

    _run(test)


def test_same_message_twice_in_one_call_and_in_two_at_once_is_sent_once() -> None:
    async def test() -> None:
        async with _manager(PlainMemoryServer()) as manager:
            await manager.create_queue("q", QueueOptions(deduplication_s=60.0))
            await manager.send_many("q", ["a", "b", "a"])
            await asyncio.gather(*(manager.send_many("q", pair) for pair in (["c", "d"], ["d", "c"]) * 5))
            assert sorted(await payloads(manager, "q")) == ["a", "b", "c", "d"]

    _run(test)


def test_send_that_failed_can_be_repeated() -> None:
    async def test() -> None:
        server = PlainMemoryServer()
        async with _manager(server) as manager:
            await manager.create_queue("q", QueueOptions(deduplication_s=60.0))
            await manager.send("q", 0)
            server.before = refuse("append")
            with pytest.raises(BrokerUnavailable):
                await manager.send("q", 1)
            server.before = lambda step: None
            assert (await manager.send("q", 1)).queues == ("q",)
            assert await payloads(manager, "q") == [0, 1]

    _run(test)


@pytest.mark.parametrize("step", ["append", "acknowledge"])
def test_dead_letter_is_there_before_the_message_is_gone(step: str) -> None:
    async def test() -> None:
        server = PlainMemoryServer()
        async with _manager(server) as manager:
            await manager.create_queue("q", QueueOptions(lease_s=600.0))
            await manager.send("q", "x")
            delivery = await one(manager, "q")
            server.before = refuse(step)
            with pytest.raises(BrokerUnavailable):
                await delivery.reject("no")
            server.before = lambda step: None
            letters = await manager.dead_letters.list_letters("q")

            # Refused before: nothing was done. Refused between: a copy. Never neither.
            assert len(letters) == (step == "acknowledge")
            assert (await manager.statistics("q")).measure.in_flight == 1
            await delivery.reject("again")
            assert {each.message_id for each in await manager.dead_letters.list_letters("q")} == {
                delivery.message.id
            }

    _run(test)


def test_lost_lease_leaves_no_dead_letter() -> None:
    async def test() -> None:
        server = PlainMemoryServer()
        async with _manager(server) as manager:
            await manager.create_queue("q", QueueOptions(lease_s=0.02))
            await manager.send("q", "x")
            late = await one(manager, "q")
            again = await one(manager, "q", lease_s=600.0)
            with pytest.raises(Exception, match="ran out"):
                await late.reject("too late")
            assert await manager.dead_letters.list_letters("q") == []
            await again.ack()

    _run(test)


def test_bytes_of_strangers_in_the_broker_are_dead_letters_with_all_their_bytes() -> None:
    async def test() -> None:
        server = PlainMemoryServer()
        async with _manager(server) as manager:
            await manager.create_queue("q")
            await manager.send("q", "fine")
            raw = PlainMemoryBroker(server)
            await raw.open()
            strange = [b"", b"\x9fpm\x01", Head(message_id="m").wrap(b"")[:-1], b"\xff\x00 junk", b"[]"]
            await raw.append([Item(lane="q", data=data) for data in strange])

            assert await payloads(manager, "q") == ["fine"]
            letters = await manager.dead_letters.list_letters("q")
            assert [letter.raw for letter in letters] == strange
            assert {letter.reason for letter in letters} == {Reason.UNREADABLE}

    _run(test)


def test_what_a_dead_process_was_about_to_move_comes_when_its_lease_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delays, "LEASE_S", 0.4)

    async def test() -> None:
        server = PlainMemoryServer()
        doomed, other = _manager(server), _manager(server)
        await doomed.backend.open()
        async with other:
            await doomed.create_queue("q")
            await doomed.send("q", "x", delay_s=0.3)
            assert await doomed.receive("q", wait_s=0.1) == []  # its mover holds it now
            assert server.lanes["q!d0"][next(iter(server.lanes["q!d0"]))].until > time.monotonic()
            for task in doomed.backend._movers._tasks.values():  # type: ignore[attr-defined]  # as SIGKILL would
                task.cancel()
            assert (await one(other, "q")).message.payload == "x"
        await doomed.backend.close()

    _run(test)


def test_more_delayed_messages_than_a_mover_holds_all_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delays, "MAX_HELD", 7)

    async def test() -> None:
        async with _manager(PlainMemoryServer()) as manager:
            await manager.create_queue("q")
            await manager.send_many("q", list(range(100)), delay_s=0.2)
            held: list[int] = []
            found: list[Any] = []

            async def all_came() -> bool:
                found.extend(await payloads(manager, "q", wait_s=0.05))
                held.extend(len(each) for each in manager.backend._movers._waiting.values())  # type: ignore[attr-defined]
                return len(found) == 100

            await until(all_came, "the delayed messages")
            assert found == list(range(100))
            assert 0 < max(held) <= 7

    _run(test)


def test_delayed_message_goes_before_its_longer_and_after_its_shorter_ones_whatever_lane_they_lie_in() -> (
    None
):
    async def test() -> None:
        async with _manager(PlainMemoryServer()) as manager:
            await manager.create_queue("q", QueueOptions(kind=Kind.PRIORITY))
            for delay_s in (1.4, 0.2, 1.1, 0.6, 60.0):
                await manager.send("q", delay_s, delay_s=delay_s, priority=3)
            assert [(await one(manager, "q")).message.payload for _ in range(4)] == [0.2, 0.6, 1.1, 1.4]
            assert (await manager.statistics("q")).measure.delayed == 1

    _run(test)


def test_broker_that_delays_by_itself_is_asked_to_up_to_its_limit() -> None:
    class Delaying(PlainMemoryBroker):
        traits = replace(PlainMemoryBroker.traits, longest_delay_s=0.3)
        asked: list[float] = []

        async def append(self, items: Any) -> None:
            self.asked += [item.delay_s for item in items if item.delay_s]
            await super().append([replace(item, delay_s=0.0) for item in items])

    async def test() -> None:
        async with QueueManager(EmulatedBackend(Delaying(PlainMemoryServer()))) as manager:
            await manager.create_queue("q")
            sent_at = time.monotonic()
            await manager.send("q", "x", delay_s=0.7)
            assert (await one(manager, "q")).message.payload == "x"
            assert time.monotonic() - sent_at >= 0.7
            assert [round(delay_s, 1) for delay_s in Delaying.asked] == [0.3, 0.3, 0.1]

    _run(test)


def test_queue_made_by_another_process_is_full_for_this_one_too() -> None:
    async def test() -> None:
        server = PlainMemoryServer()
        async with _manager(server) as manager, _manager(server) as other:
            await manager.create_queue("q", QueueOptions(max_size=3))
            await manager.send_many("q", [1, 2])
            await other.send("q", 3)
            with pytest.raises(QueueFull, match="2 of 2"):
                await other.send_many("q", [4, 5])

    _run(test)
