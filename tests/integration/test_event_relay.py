"""The relay's loop over a real store, and a log in memory that fails as it is told to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import func, insert, select

from pynomaly_tasks.core.event import Event
from pynomaly_tasks.core.ids import new_id
from pynomaly_tasks.core.job import DeadReason
from pynomaly_tasks.errors import EventRefused
from pynomaly_tasks.events.cloudevents import encode
from pynomaly_tasks.events.ports import Record
from pynomaly_tasks.events.relay import Relay
from pynomaly_tasks.events.relay_metrics import RelayMetrics
from pynomaly_tasks.events.relay_ports import RelayOptions
from pynomaly_tasks.store.clock import server_now
from pynomaly_tasks.store.store import Store
from pynomaly_tasks.store.tables import outbox
from support.memory_log import MemoryLog, MemoryProducer


class HandWake:
    """The bell without Redis: rung by the test, else the relay polls."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self.n_vacancies = 0

    def ring(self) -> None:
        self._rung.set()

    async def wait(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        except TimeoutError:
            return
        self._rung.clear()

    async def wait_for_vacancy(self, timeout_s: float) -> None:
        await asyncio.sleep(timeout_s)

    async def tell_vacancy(self) -> None:
        self.n_vacancies += 1

    async def close(self) -> None:
        pass


class Bench:
    """One store, one log, and relays over them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.log = MemoryLog()
        self.written: dict[str, list[str]] = {}
        self.encode: Callable[[Event], Record] = lambda event: encode(event, "/test")
        self.wake = HandWake()
        self.registry = CollectorRegistry()

    def write(self, *keys: str, **columns: Any) -> None:
        """One event for each key, in one transaction."""
        rows = []
        for key in keys:
            event_id = new_id()
            self.written.setdefault(key, []).append(event_id)
            rows.append(
                {
                    "event_id": event_id,
                    "topic": "job_events",
                    "key": key,
                    "type": "job.started",
                    "payload": {"job_id": key},
                    **columns,
                }
            )
        with self.store._db.writing() as connection:
            connection.execute(insert(outbox).values(created_at=server_now()), rows)

    def relay(self, **options: Any) -> Relay:
        self.producer = MemoryProducer(self.log)
        quick = {"poll_s": 0.05, "lease_s": 5.0, "backoff_max_s": 0.2, "batch_size": 10}
        return Relay(
            self.store,
            self.producer,
            lambda event: self.encode(event),
            self.wake,
            RelayOptions(**{**quick, **options}),
            RelayMetrics(self.registry),
        )

    @asynccontextmanager
    async def running(self, **options: Any):
        relay = self.relay(**options)
        task = asyncio.create_task(relay.run())
        try:
            yield relay
        finally:
            relay.stop()
            async with asyncio.timeout(30):
                await task

    def n_unsent(self) -> int:
        with self.store._db.reading() as connection:
            query = select(func.count()).select_from(outbox).where(outbox.c.sent_at.is_(None))
            return connection.execute(query).scalar_one()

    async def drained(self) -> None:
        await until(lambda: self.n_unsent() == 0, "the outbox to be empty")

    def metric(self, name: str, **labels: str) -> float:
        value = self.registry.get_sample_value(name, labels)
        assert value is not None, name
        return value

    def check_order(self, *, repetitions: bool = False) -> None:
        """Every key's events are in the log in their order; without ``repetitions``, once each."""
        for key, ids in self.written.items():
            assert (self.log.firsts(key) if repetitions else self.log.ids(key)) == ids, key


async def until(predicate: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            while not await asyncio.to_thread(predicate):
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited {timeout_s:g} s for {what}") from None


@pytest.fixture
def bench(store: Store) -> Bench:
    return Bench(store)


def run(scenario: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(90):
            await scenario

    asyncio.run(bounded())


KEYS = [f"k{number}" for number in range(7)]


def test_full_outbox_is_published_in_order_and_marked(bench):
    async def scenario():
        for _ in range(20):
            bench.write(*KEYS)
        async with bench.running():
            await bench.drained()

        bench.check_order()
        assert bench.log.max_records == 10
        assert bench.metric("pynomaly_outbox_published_total", topic="job_events") == 140
        assert bench.metric("pynomaly_outbox_batch_seconds_count") == 14

    run(scenario())


def test_relay_looks_at_once_when_it_is_woken(bench):
    async def scenario():
        async with bench.running(poll_s=60.0):
            bench.wake.ring()
            bench.write("a")
            bench.wake.ring()
            await until(lambda: bench.log.n_records == 1, "the event")

    run(scenario())


def test_relay_looks_by_itself_when_nobody_wakes_it(bench):
    async def scenario():
        async with bench.running():
            for _ in range(3):
                bench.write("a")
                await bench.drained()

    run(scenario())
    bench.check_order()


def test_nothing_is_marked_before_the_log_has_it(bench):
    async def scenario():
        bench.log.gate = asyncio.Event()
        bench.write(*KEYS)
        async with bench.running() as relay:
            await until(lambda: bench.producer.is_running, "the relay to send")
            assert bench.n_unsent() == 7
            relay.stop()
            bench.log.gate.set()

        assert bench.n_unsent() == 0

    run(scenario())
    bench.check_order()


def test_relay_that_is_stopped_finishes_the_batch_in_hand_and_gives_up_its_lease(bench):
    async def scenario():
        bench.log.gate = asyncio.Event()
        for _ in range(10):
            bench.write(*KEYS)
        async with bench.running() as relay:
            await until(lambda: bench.producer.is_running, "the relay to send")
            relay.stop()
            bench.log.gate.set()

        assert bench.log.n_records == 10
        assert bench.n_unsent() == 60
        assert bench.store.get_outbox_lag().relay is None
        assert bench.wake.n_vacancies == 1
        assert not bench.producer.is_running

    run(scenario())


def test_events_are_not_blamed_while_the_log_is_away_and_drain_in_order_after(bench, caplog):
    async def scenario():
        bench.log.is_away = True
        async with bench.running():
            for _ in range(10):
                bench.write(*KEYS)
                bench.wake.ring()
            await until(lambda: bench.store.get_outbox_lag().last_error is not None, "the reason to be shown")
            status = bench.store.get_outbox_status(10)
            assert (status.lag.n_unsent, status.lag.n_held_back) == (70, 0)
            assert status.lag.last_error == "the log is away"
            assert bench.metric("pynomaly_outbox_failures_total", cause="log") >= 1
            bench.log.is_away = False
            await bench.drained()
            await until(lambda: bench.store.get_outbox_lag().last_error is None, "the reason to go")

        bench.check_order()

    run(scenario())
    assert bench.store.list_dead_letters() == []


def test_outage_is_logged_once_when_it_begins_and_once_when_it_ends(bench, capfd):
    async def scenario():
        bench.log.is_away = True
        bench.write("a")
        async with bench.running():
            await until(
                lambda: bench.metric("pynomaly_outbox_failures_total", cause="log") >= 3, "three tries"
            )
            bench.log.is_away = False
            await bench.drained()

    run(scenario())
    output = "".join(capfd.readouterr())
    assert output.count("event_log_away") == 1
    assert output.count("event_log_back") == 1


def test_answers_that_got_lost_cause_repetitions_in_order_and_nothing_else(bench):
    async def scenario():
        for _ in range(10):
            bench.write(*KEYS)
        bench.log.n_unknown = 3
        async with bench.running():
            await bench.drained()

    run(scenario())
    bench.check_order(repetitions=True)
    assert bench.log.n_records == 70 + 3 * 10


def test_partition_without_a_leader_holds_back_its_own_keys(bench):
    async def scenario():
        bench.log.is_dead = lambda partition: partition == 1
        for _ in range(10):
            bench.write(*KEYS)
        mine = [key for key in KEYS if sum(key.encode()) % 3 == 1]
        async with bench.running():
            await until(lambda: bench.n_unsent() == 10 * len(mine), "the other keys")
            status = bench.store.get_outbox_status(10)
            assert {held.key for held in status.held_back} == set(mine)
            assert {held.error for held in status.held_back} == {"partition 1 has no leader"}
            bench.log.is_dead = lambda partition: False
            await bench.drained()

    run(scenario())
    bench.check_order()


def test_refused_event_is_a_dead_letter_and_its_key_goes_on(bench):
    async def scenario():
        bench.write("a", "b", "a", "b")
        refused = bench.written["a"].pop(0)
        bench.log.refuses = lambda record: dict(record.headers)["ce_id"] == refused.encode()
        async with bench.running():
            await bench.drained()

    run(scenario())
    bench.check_order()
    [letter] = bench.store.list_dead_letters()
    assert (letter.reason, letter.message) == (DeadReason.EVENT_REFUSED, "too large")


def test_event_that_cannot_be_encoded_is_a_dead_letter_and_its_key_goes_on(bench):
    def refuse_first(event: Event) -> Record:
        if event.id == first:
            raise EventRefused("600 KiB, at most 512")
        return encode(event, "/test")

    bench.encode = refuse_first
    bench.write("a", "a", "b")
    first = bench.written["a"].pop(0)

    async def scenario():
        async with bench.running():
            await bench.drained()

    run(scenario())
    bench.check_order()
    [letter] = bench.store.list_dead_letters()
    assert letter.message == "600 KiB, at most 512"


def test_event_that_breaks_the_client_is_found_and_given_up_after_five_tries(bench):
    async def scenario():
        for _ in range(4):
            bench.write(*KEYS)
        poison = bench.written["k3"].pop(1)
        bench.log.raises = lambda record: dict(record.headers)["ce_id"] == poison.encode()
        async with bench.running():
            await until(lambda: bench.n_unsent() == 3, "all but what is behind it")
            while bench.n_unsent():
                bench.write("healthy")
                await asyncio.sleep(0.05)

    run(scenario())
    bench.check_order()
    [letter] = bench.store.list_dead_letters()
    assert letter.n_attempts == 5
    assert "failed 5 times where other events did not: RuntimeError: the client broke" in letter.message


def test_client_that_breaks_on_every_event_is_an_outage_and_no_event_is_given_up(bench):
    async def scenario():
        bench.write(*KEYS)
        bench.log.raises = lambda record: True
        async with bench.running():
            await until(
                lambda: bench.metric("pynomaly_outbox_failures_total", cause="log") >= 8, "eight rounds"
            )
            assert bench.store.get_outbox_status(5).held_back == []
            bench.log.raises = lambda record: False
            await bench.drained()

    run(scenario())
    bench.check_order()
    assert bench.store.list_dead_letters() == []


def test_unforeseen_error_of_the_codec_holds_back_the_key_only(bench):
    broken = [True]

    def fail(event: Event) -> Record:
        if event.key == "k2" and broken:
            raise ZeroDivisionError("a bug")
        return encode(event, "/test")

    bench.encode = fail

    async def scenario():
        for _ in range(3):
            bench.write(*KEYS)
        async with bench.running(backoff_max_s=60.0):
            await until(lambda: bench.n_unsent() == 3, "the other keys")
            [held] = bench.store.get_outbox_status(5).held_back
            assert (held.key, held.error) == ("k2", "ZeroDivisionError: a bug")
            broken.clear()
            await bench.drained()

    run(scenario())
    bench.check_order()


def test_producer_that_gives_no_answer_is_left_and_started_anew(bench):
    async def scenario():
        bench.write("a")
        bench.log.gate = asyncio.Event()
        async with bench.running(producer_timeout_s=-4.5):
            await until(
                lambda: bench.metric("pynomaly_outbox_failures_total", cause="log") >= 2, "two timeouts"
            )
            bench.log.gate.set()
            await bench.drained()

        assert bench.producer.n_started >= 3

    run(scenario())


def test_several_relays_publish_each_event_once_and_in_order(bench):
    async def scenario():
        async with bench.running(), bench.running(), bench.running():
            for _ in range(30):
                bench.write(*KEYS)
                await asyncio.sleep(0.01)
            await bench.drained()

    bench.registry = _Many()
    run(scenario())
    bench.check_order()


class _Many(CollectorRegistry):
    """Takes the metrics of several relays, as no process would have them."""

    def register(self, collector: Any) -> None:
        pass


def test_standby_takes_over_when_the_lease_of_a_dead_relay_runs_out(bench):
    assert bench.store.take_relay_lease("dead", 1.0)
    bench.write(*KEYS)

    async def scenario():
        async with bench.running():
            await bench.drained()

    run(scenario())
    bench.check_order()


def test_relay_whose_lease_another_one_took_publishes_nothing_more(bench):
    async def scenario():
        async with bench.running(lease_s=0.4) as relay:
            await until(lambda: bench.store.get_outbox_lag().relay == relay.holder, "the lease")
            bench.store.give_up_relay_lease(relay.holder)
            assert bench.store.take_relay_lease("other", 60.0)
            await until(lambda: bench.metric("pynomaly_outbox_relay_leads") == 0, "it to notice")
            bench.write("a")
            await asyncio.sleep(0.5)
            assert bench.log.n_records == 0
            bench.store.give_up_relay_lease("other")
            await bench.drained()

    run(scenario())


def test_what_was_published_long_ago_is_pruned(bench):
    bench.write(*KEYS)

    async def scenario():
        async with bench.running(keep_sent_s=0.2):
            await bench.drained()
        await asyncio.sleep(0.3)
        bench.registry = CollectorRegistry()
        async with bench.running(keep_sent_s=0.2):
            await until(lambda: _n_rows(bench.store) == 0, "the rows to go")

    run(scenario())


def test_nothing_is_kept_where_nothing_is_to_be_kept(bench):
    bench.write(*KEYS)

    async def scenario():
        async with bench.running(keep_sent_s=0.0):
            await until(lambda: _n_rows(bench.store) == 0, "the rows to go")

    run(scenario())
    bench.check_order()


def _n_rows(store: Store) -> int:
    with store._db.reading() as connection:
        return connection.execute(select(func.count()).select_from(outbox)).scalar_one()


def test_many_writers_at_once_and_every_key_stays_in_order(bench):
    lock = threading.Lock()

    def write(number: int) -> None:
        for _ in range(25):
            with lock:  # as the row of a job is locked by whoever writes its events
                bench.write(f"shared{number % 2}")
            bench.write(f"own{number}")

    async def scenario():
        async with bench.running(batch_size=3):
            await asyncio.gather(*(asyncio.to_thread(write, number) for number in range(4)))
            await bench.drained()

    run(scenario())
    bench.check_order()
    assert bench.log.n_records == 200
