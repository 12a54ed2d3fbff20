"""Many deliveries settled at the same moment: exact for each, in few requests, and finished before closing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.errors import BrokerUnavailable, LeaseLost
from pynomaly_tasks.messaging import QueueManager, QueueOptions
from pynomaly_tasks.messaging.backends import coalescing
from pynomaly_tasks.messaging.backends.mqtt.broker import MqttBroker
from pynomaly_tasks.messaging.backends.mqtt.host import HostLost
from pynomaly_tasks.messaging.backends.pubsub.broker import PubSubBroker
from pynomaly_tasks.messaging.backends.sqs.broker import SqsBroker
from pynomaly_tasks.messaging.delivery import Delivery
from pynomaly_tasks.messaging.plain_broker import Item, PlainBroker, Taken
from support.kafka_topics import unique_name
from support.messaging import BrokerUnderTest, known, payloads, until
from support.mosquitto import Mosquitto
from support.pubsub_emulator import PubSubEmulator
from support.sqs import SqsServer
from support.tcp_proxy import TcpProxy

N = 60
AT_ONCE = RetryPolicy(max_retries=3, backoff_s=0.0)


async def _take(
    manager: QueueManager, n: int, queue: str = "q", *, lease_s: float | None = None
) -> list[Delivery]:
    """So many deliveries."""
    taken: list[Delivery] = []

    async def has_all() -> bool:
        left = n - len(taken)
        taken.extend(await manager.receive(queue, max_messages=left, wait_s=1.0, lease_s=lease_s))
        return len(taken) == n

    await until(has_all, f"{n} deliveries", timeout_s=20.0)
    return taken


async def test_each_of_many_that_are_settled_at_the_same_moment_gets_what_it_asked_for(
    broker: BrokerUnderTest,
) -> None:
    async with broker.manager() as manager, broker.manager() as other:
        for queue in ("q", "p"):
            await manager.create_queue(queue, QueueOptions(retry=AT_ONCE))
            await manager.send_many(queue, list(range(N)))
        taken = [*await _take(manager, N), *await _take(manager, N, "p")]

        async def settle(delivery: Delivery) -> str:
            number: int = delivery.message.payload
            if number % 5 == 1:
                await delivery.nack("not now")
                return "again"
            if number % 5 == 2:
                await delivery.reject("never")
                return "letter"
            if number % 5 == 3:
                await delivery.extend()
            await delivery.ack()
            return "done"

        settled = Counter(await asyncio.gather(*(settle(delivery) for delivery in taken)))
        assert settled == {"done": 2 * N * 3 // 5, "again": 2 * N // 5, "letter": 2 * N // 5}
        for queue in ("q", "p"):
            assert sorted(await payloads(other, queue, wait_s=1.0)) == list(range(1, N, 5))
            letters = await other.dead_letters.list_letters(queue)
            assert sorted(letter.message.payload for letter in letters) == list(range(2, N, 5))


async def test_acknowledgement_of_what_was_lost_is_refused_among_others_that_are_not(
    broker: BrokerUnderTest,
) -> None:
    async with broker.manager() as manager, broker.manager() as other:
        await manager.create_queue("q")
        await manager.send_many("q", ["lost"] * 5)
        lost = await _take(manager, 5, lease_s=1.0)
        again = await _take(other, 5, lease_s=60.0)  # when the leases have ended
        await manager.send_many("q", ["ours"] * 5)
        ours = await _take(manager, 5, lease_s=60.0)

        mixed = [each for pair in zip(lost, ours, strict=True) for each in pair]
        answers = await asyncio.gather(*(each.ack() for each in mixed), return_exceptions=True)
        assert [type(answer) for answer in answers] == [LeaseLost, type(None)] * 5
        await asyncio.gather(*(each.ack() for each in again))
        assert await payloads(other, "q") == []


async def test_acknowledgements_that_are_on_their_way_are_done_before_a_manager_is_closed(
    broker: BrokerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coalescing, "CLOSE_S", 30.0)  # the machine may be slow
    manager = broker.manager()
    async with broker.manager() as other:
        async with manager:
            await manager.create_queue("q", QueueOptions(lease_s=60.0))
            await manager.send_many("q", list(range(N)))
            taken = await _take(manager, N)
            acknowledging = [asyncio.create_task(delivery.ack()) for delivery in taken]
            await asyncio.sleep(0)  # they are on their way
        await asyncio.gather(*acknowledging)

        measure = (await other.statistics("q")).measure
        assert (measure.depth, measure.in_flight) == (known(broker, 0), known(broker, 0))


@asynccontextmanager
async def _opened(broker: PlainBroker) -> AsyncIterator[PlainBroker]:
    await broker.open()
    try:
        await broker.make_lane("lane")
        yield broker
    finally:
        await broker.close()


async def _hold(broker: PlainBroker, n: int) -> list[Taken]:
    await broker.append([Item(lane="lane", data=b"%d" % number) for number in range(n)])
    held: list[Taken] = []

    async def has_all() -> bool:
        held.extend(await broker.take(["lane"], max_items=n - len(held), lease_s=60.0, wait_s=1.0))
        return len(held) == n

    await until(has_all, f"{n} items", timeout_s=20.0)
    return held


@asynccontextmanager
async def _holding(broker: PlainBroker, n: int) -> AsyncIterator[list[Taken]]:
    """The broker, opened, with as many items in its hands."""
    async with _opened(broker):
        yield await _hold(broker, n)


def _at_once(broker: PlainBroker, held: Sequence[Taken]) -> Awaitable[list[list[bool] | BaseException]]:
    """Each by a call of its own, as handlers do it."""
    return asyncio.gather(*(broker.acknowledge([each]) for each in held), return_exceptions=True)


async def test_sqs_gets_ten_acknowledgements_in_a_request_and_a_failed_one_concerns_no_other(
    sqs_server: SqsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = SqsBroker(sqs_server.url, namespace=unique_name("test"))
    async with _holding(broker, 41) as held:
        sizes: list[int] = []
        batch = broker._connection.batch

        async def cut_off(action: str, url: str, entries: list[dict[str, Any]]) -> list[bool]:
            sizes.append(len(entries))
            if len(sizes) == 3:
                raise BrokerUnavailable("the network is gone for a moment")
            return await batch(action, url, entries)

        monkeypatch.setattr(broker._connection, "batch", cut_off)
        answers = await _at_once(broker, held)
        failed = [each for each, answer in zip(held, answers, strict=True) if answer != [True]]

        assert sizes == [1, 10, 10, 10, 10]
        assert [str(answer) for answer in answers if answer != [True]] == [
            "the network is gone for a moment"
        ] * 10
        assert await _at_once(broker, failed) == [[True]] * 10
        assert await _at_once(broker, held) == [[False]] * 41
        assert (await broker.count("lane")).held == 0


async def test_sqs_that_failed_for_one_of_several_is_asked_for_all_again(
    sqs_server: SqsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = SqsBroker(sqs_server.url, namespace=unique_name("test"))
    async with _holding(broker, 15) as held:
        batch = broker._connection.batch

        async def cut_off(action: str, url: str, entries: list[dict[str, Any]]) -> list[bool]:
            if len(entries) == 5:
                raise BrokerUnavailable("the network is gone for a moment")
            return await batch(action, url, entries)

        with monkeypatch.context() as patched:
            patched.setattr(broker._connection, "batch", cut_off)
            with pytest.raises(BrokerUnavailable):
                await broker.acknowledge(held)

        assert await broker.acknowledge(held) == [True] * 15
        assert await broker.acknowledge(held) == [False] * 15


async def test_sqs_hides_and_shows_what_is_held_ten_to_a_request(
    sqs_server: SqsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = SqsBroker(sqs_server.url, namespace=unique_name("test"))
    async with _holding(broker, 21) as held:
        asked: list[tuple[str, int]] = []
        batch = broker._connection.batch

        async def counted(action: str, url: str, entries: list[dict[str, Any]]) -> list[bool]:
            asked.append((action, len(entries)))
            return await batch(action, url, entries)

        monkeypatch.setattr(broker._connection, "batch", counted)
        extended = await asyncio.gather(*(broker.extend([each], lease_s=90.0) for each in held))
        released = await asyncio.gather(*(broker.release(each) for each in held))

        assert extended == [[True]] * 21
        assert released == [True] * 21
        assert asked == [("change_message_visibility_batch", n) for n in (1, 10, 10)] * 2
        assert [await broker.release(each) for each in held[:2]] == [False, False]
        assert (await broker.count("lane")).waiting == 21


@pytest.mark.pubsub
async def test_pubsub_gets_acknowledgements_of_one_moment_in_two_requests(
    pubsub_emulator: PubSubEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = PubSubBroker(pubsub_emulator.url, namespace=unique_name("test"))
    async with _holding(broker, 100) as held:
        sizes: list[int] = []
        subscriber = broker._connection.subscriber
        acknowledge = subscriber.acknowledge

        async def counted(*, request: dict[str, Any], **options: Any) -> None:
            sizes.append(len(request["ack_ids"]))
            await acknowledge(request=request, **options)

        monkeypatch.setattr(subscriber, "acknowledge", counted)

        assert await _at_once(broker, held) == [[True]] * 100
        assert sizes == [1, 99]
        assert await _at_once(broker, held) == [[False]] * 100
        assert await broker.take(["lane"], max_items=1, lease_s=1.0, wait_s=0.0) == []


@pytest.mark.pubsub
async def test_pubsub_that_failed_is_asked_again_for_all_that_were_in_the_request(
    pubsub_emulator: PubSubEmulator, tcp_proxy: Callable[[int], TcpProxy]
) -> None:
    proxy = tcp_proxy(pubsub_emulator.port)
    url = pubsub_emulator.url.replace(str(pubsub_emulator.port), str(proxy.port))
    broker = PubSubBroker(url, namespace=unique_name("test"), timeout_s=1.0)
    async with _holding(broker, 20) as held:
        proxy.stall()
        answers = await _at_once(broker, held)
        proxy.flow()

        assert [type(answer) for answer in answers] == [BrokerUnavailable] * 20
        assert len({id(answer) for answer in answers}) == 20

        async def are_done() -> bool:
            return await _at_once(broker, held) == [[True]] * 20

        await until(are_done, "the acknowledgements to pass", timeout_s=20.0)


async def test_process_on_mqtt_asks_another_host_for_the_acknowledgements_of_one_moment_twice(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = unique_name("test")
    host = MqttBroker(mosquitto.url, namespace=namespace)
    broker = MqttBroker(mosquitto.url, namespace=namespace)
    async with _opened(host), _opened(broker):
        await host.count("lane")  # whoever asks first hosts it
        held = await _hold(broker, 100)
        sizes: list[int] = []
        ask = broker._board._ask

        async def counted(lane: str, do: str, arguments: Sequence[Any]) -> Any:
            if do == "settle":
                sizes.append(len(arguments[0]))
            return await ask(lane, do, arguments)

        monkeypatch.setattr(broker._board, "_ask", counted)

        # One of them twice, in the same request.
        assert await _at_once(broker, [*held, held[7]]) == [[True]] * 100 + [[False]]
        assert sizes == [1, 100]
        assert (await host.count("lane")).held == 0


async def test_acknowledgement_that_is_tried_again_on_mqtt_is_refused_for_what_was_lost_alone(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = unique_name("test")
    host = MqttBroker(mosquitto.url, namespace=namespace)
    broker = MqttBroker(mosquitto.url, namespace=namespace)
    async with _opened(host), _opened(broker):
        await host.count("lane")  # whoever asks first hosts it
        await host.append([Item(lane="lane", data=b"lost")])
        lost = await broker.take(["lane"], max_items=1, lease_s=0.2, wait_s=5.0)
        (again,) = await host.take(["lane"], max_items=1, lease_s=60.0, wait_s=5.0)
        ours = await _hold(broker, 2)
        ask = broker._board._ask
        n_asked = 0

        async def asked(lane: str, do: str, arguments: Sequence[Any]) -> Any:
            nonlocal n_asked
            n_asked += 1
            answer = await ask(lane, do, arguments)
            if n_asked == 1:
                raise HostLost("the host ended when it had done it")
            return answer

        monkeypatch.setattr(broker._board, "_ask", asked)

        assert await broker.acknowledge([ours[0], *lost, ours[1]]) == [True, False, True]
        assert n_asked == 2
        assert await host.acknowledge([again]) == [True]
        assert (await host.count("lane")).waiting == 0
