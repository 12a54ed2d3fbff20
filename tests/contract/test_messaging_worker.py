"""What a worker does over every backend."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import InvalidQueue, NotFound
from pynomaly_tasks.messaging import (
    BreakerPolicy,
    Circuit,
    Guarantee,
    Message,
    QueueManager,
    QueueOptions,
    Reason,
    Reject,
    WhenOpen,
    Worker,
)
from support.messaging import BrokerUnderTest, in_order, known, until
from support.processes import Programs
from support.queue_outages import ConsumedQueue, stop_gracefully

AT_ONCE = RetryPolicy(max_retries=2, backoff_s=0.0)


class Running:
    """A worker that runs while the block does, stopped gracefully at its end."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    async def __aenter__(self) -> Worker:
        self.task = asyncio.create_task(self.worker.run(handle_signals=False))
        return self.worker

    async def __aexit__(self, *error: object) -> None:
        self.worker.stop()
        await asyncio.wait_for(self.task, 10.0)


async def _is_empty(*managers: QueueManager) -> bool:
    """Of its ``q``, which only they used."""
    measures = [(await manager.statistics("q")).measure for manager in managers]
    if measures[0].depth is None:  # the broker does not say it; all that was sent has ended
        n_ended = sum(each.acknowledged + each.failed for each in measures)
        return sum(each.sent for each in measures) == n_ended
    return measures[0].depth == 0


async def test_handlers_are_found_by_queue_and_type(broker: BrokerUnderTest) -> None:
    called: list[tuple[str, Any]] = []

    async with broker.manager() as manager:
        await manager.create_queue("q")
        await manager.create_queue("r")
        worker = Worker(manager, ["q", "r"])
        for queue, kind in (("q", "a"), ("", "a"), ("q", ""), ("", "")):
            worker.add_handler(
                lambda m, name=f"{queue}/{kind}": called.append((name, m.payload)), queue=queue, type=kind
            )
        for n, (queue, kind) in enumerate((("q", "a"), ("r", "a"), ("q", "b"), ("r", "b"), ("r", ""))):
            await manager.send(queue, n, type=kind)

        assert await worker.run_once() == 5
        assert sorted(called, key=lambda pair: pair[1]) == [
            ("q/a", 0),
            ("/a", 1),
            ("q/", 2),
            ("/", 3),
            ("/", 4),
        ]
        assert worker.statistics.n_done == 5


async def test_plain_functions_run_in_threads_and_coroutines_in_the_loop(broker: BrokerUnderTest) -> None:
    threads: dict[str, str] = {}

    async def in_loop(message: Message) -> None:
        threads["async"] = threading.current_thread().name

    def in_thread(message: Message) -> None:
        threads["plain"] = threading.current_thread().name

    async with broker.manager() as manager:
        await manager.create_queue("q")
        worker = Worker(manager, ["q"])
        worker.add_handler(in_loop, type="async")
        worker.add_handler(in_thread, type="plain")
        await manager.send("q", 1, type="async")
        await manager.send("q", 1, type="plain")
        await worker.run_once()

    assert threads["async"] == threading.current_thread().name != threads["plain"]


async def test_no_more_handlers_run_at_once_than_were_allowed(broker: BrokerUnderTest) -> None:
    now = most = 0

    async def work(message: Message) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1

    async with broker.manager() as manager:
        await manager.create_queue("q")
        await manager.send_many("q", list(range(40)))
        worker = Worker(manager, ["q"], concurrency=4, batch_size=7)
        worker.add_handler(work)
        async with Running(worker):
            await until(lambda: _is_empty(manager), "the queue to be empty")

    assert most == 4
    assert worker.statistics.n_done == 40


async def test_failed_message_is_tried_again_and_rejected_one_is_not(broker: BrokerUnderTest) -> None:
    tries: list[Any] = []

    async def work(message: Message) -> None:
        tries.append(message.payload)
        if message.payload == "hopeless":
            raise Reject("no such customer")
        raise ValueError("no")

    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(retry=AT_ONCE))
        await manager.send_many("q", ["bad", "hopeless"])
        worker = Worker(manager, ["q"])
        worker.add_handler(work)
        await worker.run_once()
        letters = {
            each.message.payload: each
            for each in await manager.dead_letters.list_letters("q")
            if each.message
        }

    assert sorted(tries) == ["bad", "bad", "bad", "hopeless"]
    assert (letters["bad"].reason, letters["bad"].error) == (Reason.RETRIES_USED_UP, "ValueError: no")
    assert (letters["hopeless"].reason, letters["hopeless"].error) == (
        Reason.HANDLER_ERROR,
        "no such customer",
    )
    assert (worker.statistics.n_failed, worker.statistics.n_rejected) == (3, 1)


async def test_message_without_a_handler_is_a_dead_letter(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        await manager.create_queue("q")
        await manager.send("q", 1, type="resize")
        worker = Worker(manager, ["q"])
        await worker.run_once()

        (letter,) = await manager.dead_letters.list_letters("q")
        assert (letter.reason, "no handler for the type 'resize'" in letter.error) == (
            Reason.HANDLER_ERROR,
            True,
        )


async def test_handler_that_takes_too_long_is_interrupted_and_tried_again(broker: BrokerUnderTest) -> None:
    ends: list[str] = []

    async def work(message: Message) -> None:
        try:
            if not ends:
                await asyncio.sleep(60.0)
            ends.append("done")
        except asyncio.CancelledError:
            ends.append("interrupted")
            raise

    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(retry=AT_ONCE))
        await manager.send("q", 1)
        worker = Worker(manager, ["q"], handler_timeout_s=0.1)
        worker.add_handler(work)
        await worker.run_once()

        assert ends == ["interrupted", "done"]
        assert (worker.statistics.n_timed_out, worker.statistics.n_done) == (1, 1)
        with pytest.raises(InvalidQueue, match="plain function, which cannot be interrupted"):
            worker.add_handler(print, type="x")


async def test_lease_is_kept_up_while_the_handler_works(broker: BrokerUnderTest) -> None:
    attempts: list[Any] = []

    async def work(message: Message) -> None:
        attempts.append(message.payload)
        await asyncio.sleep(2.5)

    async with broker.manager() as manager, broker.manager() as other:
        await manager.create_queue("q", QueueOptions(lease_s=0.8, retry=AT_ONCE))
        workers = [Worker(each, ["q"], concurrency=1) for each in (manager, other)]
        for worker in workers:
            worker.add_handler(work)
        async with Running(workers[0]), Running(workers[1]):
            # They have been idle for a while when the messages come.
            await asyncio.sleep(0.3)
            await manager.send_many("q", ["a", "b"])
            await until(lambda: _is_empty(manager, other), "the queue to be empty")

    assert sorted(attempts) == ["a", "b"]


async def test_handler_is_stopped_when_its_queue_is_deleted(broker: BrokerUnderTest) -> None:
    ended = asyncio.Event()
    began = asyncio.Event()

    async def work(message: Message) -> None:
        began.set()
        try:
            await asyncio.sleep(60.0)
        finally:
            ended.set()

    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(lease_s=0.4))
        await manager.send("q", 1)
        worker = Worker(manager, ["q"])
        worker.add_handler(work)
        running = asyncio.create_task(worker.run(handle_signals=False))
        await asyncio.wait_for(began.wait(), 5.0)
        await manager.delete_queue("q")

        with pytest.raises(NotFound):
            await asyncio.wait_for(running, 10.0)
        assert ended.is_set()
        assert worker.statistics.n_lost == 1


async def test_stopped_worker_finishes_what_runs_and_gives_the_rest_back(broker: BrokerUnderTest) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()
    done: list[int] = []

    async def work(message: Message) -> None:
        began.set()
        await go_on.wait()
        done.append(message.payload)

    async with broker.manager() as manager:
        await manager.create_queue("q")
        await manager.send_many("q", list(range(10)))
        worker = Worker(manager, ["q"], concurrency=2, batch_size=5)
        worker.add_handler(work)
        async with Running(worker):
            await asyncio.wait_for(began.wait(), 5.0)
            worker.stop()
            go_on.set()
        measure = (await manager.statistics("q")).measure

        assert (done, measure.depth, measure.in_flight) == ([0, 1], known(broker, 8), known(broker, 0))
        given_back = await manager.receive("q", max_messages=10)
        assert {each.attempt for each in given_back} == {1}
        assert in_order(broker, [each.message.payload for each in given_back]) == list(range(2, 10))


async def test_sigterm_stops_a_worker_process_gracefully(
    own_redis: RedisServer, programs: Programs, tmp_path: Path
) -> None:
    queue = ConsumedQueue("redis_streams", f"{own_redis.url}/0", programs, tmp_path)
    await queue.fill(20, QueueOptions())
    worker = queue.consumer("worker:0.5", ready="^started 2")
    stop_gracefully(worker)
    async with queue.manager() as manager:
        measure = (await manager.statistics("q")).measure

    n_done = len(queue.done())
    assert n_done >= 3
    assert (measure.depth, measure.in_flight) == (20 - n_done, 0)


async def test_circuit_opens_after_failures_in_a_row_and_one_success_closes_it(
    broker: BrokerUnderTest,
) -> None:
    broken = True
    tries: list[Any] = []

    async def work(message: Message) -> None:
        tries.append(message.payload)
        if broken:
            raise ValueError("down")

    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(retry=RetryPolicy(max_retries=100, backoff_s=0.0)))
        await manager.send_many("q", list(range(6)))
        worker = Worker(
            manager, ["q"], concurrency=1, batch_size=2, breaker=BreakerPolicy(n_failures=3, pause_s=0.6)
        )
        worker.add_handler(work)

        async def opened() -> bool:
            return worker.circuit("q") is Circuit.OPEN

        async with Running(worker):
            await until(opened, "the circuit to open")
            n_tries, opened_at = len(tries), time.monotonic()
            broken = False
            await until(lambda: _is_empty(manager), "the queue to be empty")

        assert n_tries == 3
        assert time.monotonic() - opened_at >= 0.5
        assert worker.circuit("q") is Circuit.CLOSED
        assert sorted(tries[3:]) == list(range(6))


async def test_messages_of_an_open_circuit_can_be_put_away(broker: BrokerUnderTest) -> None:
    async def work(message: Message) -> None:
        raise ValueError("down")

    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(retry=RetryPolicy(max_retries=0)))
        await manager.send_many("q", list(range(5)))
        policy = BreakerPolicy(n_failures=2, pause_s=60.0, when_open=WhenOpen.DEAD_LETTER)
        worker = Worker(manager, ["q"], concurrency=1, breaker=policy)
        worker.add_handler(work)
        await worker.run_once()
        reasons = [each.reason for each in await manager.dead_letters.list_letters("q")]

    assert reasons == [Reason.RETRIES_USED_UP] * 2 + [Reason.CIRCUIT_OPEN] * 3


async def test_fire_and_forget_is_not_tried_again(broker: BrokerUnderTest) -> None:
    tries: list[Any] = []

    async def work(message: Message) -> None:
        tries.append(message.payload)
        raise ValueError("no")

    async with broker.manager() as manager:
        await manager.create_queue("q", QueueOptions(retry=AT_ONCE))
        await manager.send("q", 1, guarantee=Guarantee.FIRE_AND_FORGET)
        worker = Worker(manager, ["q"])
        worker.add_handler(work)

        assert await worker.run_once() == 1
        assert tries == [1]
        assert await manager.dead_letters.list_letters() == []


async def test_worker_without_its_queue_says_so(broker: BrokerUnderTest) -> None:
    async with broker.manager() as manager:
        with pytest.raises(NotFound, match="no queue 'nowhere'"):
            await Worker(manager, ["nowhere"]).run(handle_signals=False)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"concurrency": 0}, "concurrency"), ({"batch_size": 1_001}, "batch_size"), ({"handler_timeout_s": 0}, "timeout"),
        ({"queues": []}, "queues"), ({"concurrency": 1.5}, "concurrency"),
    ],
)  # fmt: skip
async def test_impossible_worker_is_refused(
    broker: BrokerUnderTest, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidQueue, match=why):
        Worker(broker.manager(), **{"queues": ["q"], **options})
