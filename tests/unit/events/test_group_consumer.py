import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from pynomaly_tasks.core.event import Event
from pynomaly_tasks.errors import BadEvent, StoreUnavailable
from pynomaly_tasks.events.consumer import ConsumerOptions, GroupConsumer
from pynomaly_tasks.events.consumer_metrics import ConsumerMetrics
from pynomaly_tasks.events.dead_letters import CUT_TO_BYTES, DEAD_LETTER_EVENTS, open_letters
from pynomaly_tasks.events.ports import Partition, Record, StoredRecord
from support.manual_log import ManualConsumer, ManualLog, ManualProducer

TOPIC = "job_events"
FIRST, SECOND = Partition(TOPIC, 0), Partition(TOPIC, 1)


def decode(record: StoredRecord) -> Event:
    """As the codec does, over JSON that a test writes by hand."""
    if record.value is None or not record.value.startswith(b"{"):
        raise BadEvent("not_json", "no JSON")
    content = json.loads(record.value)
    return Event(
        id=content["id"],
        type="job.completed",
        version=1,
        topic=record.topic,
        key="k",
        occurred_at=datetime.now(UTC),
        data=content,
    )


class Journal:
    """An effect that remembers; what it does about an event can be changed."""

    def __init__(self, batch_size: int = 100) -> None:
        self.batch_size = batch_size
        self.applied: list[str] = []
        self.calls: list[list[str]] = []
        self.before: Callable[[str], Awaitable[None] | None] = lambda event_id: None

    async def apply(self, events: Sequence[Event], *, replay_id: str | None = None) -> int:
        self.calls.append([event.id for event in events])
        for event in events:
            waiting = self.before(event.id)
            if waiting is not None:
                await waiting
        new = [event.id for event in events if event.id not in self.applied]
        self.applied += new
        return len(new)

    async def close(self) -> None: ...


class Group:
    """A log, and members of one group on it."""

    def __init__(self, **options: Any) -> None:
        self.log = ManualLog()
        self.journal = Journal()
        self.producer = ManualProducer(self.log)
        self.registry = CollectorRegistry()
        self.metrics = ConsumerMetrics(self.registry)
        self.options = ConsumerOptions(**{"backoff_s": 0.001, "backoff_max_s": 0.002, **options})

    def add(self, *ids: str, partition: int = 0, value: bytes | None = None, **more: Any) -> None:
        for event_id in ids:
            self.log.append(
                Record(
                    topic=TOPIC,
                    key=bytes([48 + partition]),
                    value=json.dumps({"id": event_id}).encode() if value is None else value,
                    **more,
                )
            )

    @asynccontextmanager
    async def member(self, *partitions: Partition, journal: Journal | None = None):
        consumer = ManualConsumer(self.log, "g", partitions)
        stop = asyncio.Event()
        group = GroupConsumer(
            "g",
            consumer,
            self.producer,
            journal or self.journal,
            decode,
            options=self.options,
            metrics=self.metrics,
        )
        running = asyncio.create_task(group.run(stop))
        try:
            yield consumer
        finally:
            stop.set()
            consumer.hurry()
            await asyncio.wait_for(running, 10)

    def letters(self):
        return open_letters(self.log.of(DEAD_LETTER_EVENTS))

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {"group": "g", **labels})


async def until(predicate: Callable[[], Any], what: str) -> None:
    async with asyncio.timeout(5):
        while not predicate():
            await asyncio.sleep(0.002)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


def test_events_are_applied_in_order_and_committed_after_their_effect():
    async def scenario() -> None:
        group = Group()
        group.add("a", "b", "c")

        async with group.member(FIRST):
            await until(lambda: group.log.lag("g") == 0, "everything is committed")

        assert group.journal.applied == ["a", "b", "c"]
        assert group.sample("pynomaly_events_applied_total", topic=TOPIC) == 3

    run(scenario)


def test_nothing_is_committed_while_its_effect_has_not_happened():
    async def scenario() -> None:
        group = Group()
        group.journal.batch_size = 1
        may_go_on = asyncio.Event()
        group.journal.before = lambda event_id: may_go_on.wait() if event_id == "b" else None  # type: ignore[assignment,return-value]
        group.add("a", "b")

        async with group.member(FIRST):
            await until(lambda: group.log.committed.get(("g", FIRST)) == 1, "the first is committed")
            assert group.log.lag("g") == 1
            may_go_on.set()
            await until(lambda: group.log.lag("g") == 0, "the second too")

    run(scenario)


def test_neighbour_that_is_away_is_waited_for_however_many_tries_it_takes():
    async def scenario() -> None:
        group = Group(max_attempts=2)
        n_tries = 0

        def refuse(event_id: str) -> None:
            nonlocal n_tries
            n_tries += 1
            if n_tries < 20:
                raise StoreUnavailable("no answer")

        group.journal.before = refuse
        group.add("a", "b")

        async with group.member(FIRST):
            await until(lambda: group.log.lag("g") == 0, "the store is back")

        assert group.journal.applied == ["a", "b"]
        assert group.letters() == []
        assert group.sample("pynomaly_events_retried_total", topic=TOPIC, cause="neighbour") == 19

    run(scenario)


def test_event_that_fails_by_itself_is_tried_max_attempts_times_then_dead_lettered_and_the_rest_goes_on():
    async def scenario() -> None:
        group = Group(max_attempts=3)

        def fail(event_id: str) -> None:
            if event_id == "b":
                raise ValueError("cannot bill 0.00")

        group.journal.before = fail
        group.add("a", "b", "c", headers=[("ce_id", b"x")])

        async with group.member(FIRST):
            await until(lambda: group.log.lag("g") == 1, "only the dead letter's own topic lags")

        assert group.journal.applied == ["a", "c"]
        assert group.journal.calls.count(["b"]) == 3
        [letter] = group.letters()
        assert (letter.group, letter.reason, letter.n_attempts) == ("g", "handler_failed", 3)
        assert letter.message == "ValueError: cannot bill 0.00"
        assert letter.record.value == b'{"id": "b"}'
        assert (letter.record.topic, letter.record.partition, letter.record.offset) == (TOPIC, 0, 1)
        assert list(letter.record.headers) == [("ce_id", b"x")]

    run(scenario)


def test_message_that_is_no_event_is_dead_lettered_at_once_with_its_bytes():
    async def scenario() -> None:
        group = Group()
        group.add("a")
        group.add("raw", value=b"\xff\x00")
        group.log.append(Record(topic=TOPIC, key=b"0", value=None))
        group.add("b")

        async with group.member(FIRST):
            await until(lambda: group.journal.applied == ["a", "b"], "the rest is applied")

        letters = group.letters()
        assert [letter.record.value for letter in letters] == [b"\xff\x00", None]
        assert {(letter.reason, letter.n_attempts) for letter in letters} == {("not_json", 1)}
        assert group.sample("pynomaly_events_dead_lettered_total", topic=TOPIC, reason="not_json") == 2

    run(scenario)


def test_dead_letter_that_is_too_large_is_kept_as_its_beginning():
    async def scenario() -> None:
        group = Group()
        group.log.max_bytes = 100_000
        group.add("large", value=b"x" * 2_000_000)
        group.add("b")

        async with group.member(FIRST):
            await until(lambda: group.journal.applied == ["b"], "the consumer goes on")

        [letter] = group.letters()
        assert letter.cut_from_bytes == 2_000_000
        assert letter.record.value == b"x" * CUT_TO_BYTES

    run(scenario)


def test_offset_of_a_dead_letter_is_committed_only_when_the_log_has_it():
    async def scenario() -> None:
        group = Group()
        n_asked = 0

        async def no_producer() -> None:
            nonlocal n_asked
            n_asked += 1
            if n_asked < 5:
                group.log.away = True
                try:
                    group.log.check()
                finally:
                    group.log.away = False
            group.producer.n_started += 1

        group.producer.start = no_producer  # type: ignore[method-assign]
        group.add("raw", value=b"no event")

        async with group.member(FIRST):
            await until(lambda: n_asked == 4, "burying was tried")
            assert ("g", FIRST) not in group.log.committed
            await until(lambda: group.log.committed.get(("g", FIRST)) == 1, "it is buried and committed")

        assert len(group.letters()) == 1

    run(scenario)


def test_partition_that_waits_holds_up_no_other_and_is_read_no_further_than_its_limit():
    async def scenario() -> None:
        group = Group(poll_records=10)
        group.journal.batch_size = 1
        open_again = asyncio.Event()
        group.journal.before = lambda event_id: open_again.wait() if event_id.startswith("stuck") else None  # type: ignore[assignment,return-value]
        group.add(*(f"stuck-{n}" for n in range(100)))
        group.add(*(f"free-{n}" for n in range(100)), partition=1)

        async with group.member(FIRST, SECOND) as consumer:
            await until(lambda: len(group.journal.applied) == 100, "the free partition is done")
            await until(lambda: consumer.paused[-1] == {FIRST}, "the stuck one is paused")
            assert consumer._positions[FIRST] <= 30
            open_again.set()
            await until(lambda: group.log.lag("g") == 0, "and the other")

        assert [one for one in group.journal.applied if one.startswith("stuck")] == [
            f"stuck-{n}" for n in range(100)
        ]

    run(scenario)


def test_revoked_partition_is_finished_and_committed_before_the_next_member_reads_it():
    async def scenario() -> None:
        group = Group()
        group.journal.batch_size = 2
        in_hand, may_go_on = asyncio.Event(), asyncio.Event()

        def hold(event_id: str) -> Any:
            in_hand.set()
            return may_go_on.wait()

        group.journal.before = hold  # type: ignore[assignment]
        group.add("a", "b", "c", "d")

        async with group.member(FIRST) as first:
            await in_hand.wait()
            leaving = asyncio.create_task(first.take_away(FIRST))
            await asyncio.sleep(0)
            assert not leaving.done()
            may_go_on.set()
            await leaving
            assert group.log.committed[("g", FIRST)] == 2
            second = Journal()
            async with group.member(FIRST, journal=second):
                await until(lambda: second.applied == ["c", "d"], "the next goes on from there")

        assert group.journal.applied == ["a", "b"]

    run(scenario)


def test_member_that_lost_a_partition_unawares_commits_nothing_of_it_and_goes_on_with_the_rest():
    async def scenario() -> None:
        group = Group()

        async with group.member(FIRST, SECOND) as consumer:
            await consumer.joined.wait()
            consumer.lose(FIRST)
            consumer._positions[FIRST] = 0  # what it had read before it was paused
            group.add("a")
            group.add("b", partition=1)
            await until(lambda: group.log.committed.get(("g", SECOND)) == 1, "the other is committed")

        assert ("g", FIRST) not in group.log.committed

    run(scenario)


def test_log_that_goes_away_and_comes_back_loses_nothing():
    async def scenario() -> None:
        group = Group()
        group.log.away = True

        async with group.member(FIRST) as consumer:
            await asyncio.sleep(0)
            group.log.away = False
            await consumer.joined.wait()
            group.add("a")
            await until(lambda: group.journal.applied == ["a"], "it joined")
            group.log.away = True
            group.add("b")
            await asyncio.sleep(0.05)
            group.log.away = False
            await until(lambda: group.log.lag("g") == 0, "it went on")

        assert group.journal.applied == ["a", "b"]

    run(scenario)


def test_stop_ends_what_is_in_hand_commits_it_and_leaves_the_group():
    async def scenario() -> None:
        group = Group()
        group.journal.batch_size = 1
        group.journal.before = lambda event_id: asyncio.sleep(0.001)  # type: ignore[assignment,return-value]
        group.add(*map(str, range(5_000)))

        async with group.member(FIRST) as consumer:
            await until(lambda: group.journal.applied, "it began")

        assert consumer.stopped.is_set()
        assert group.journal.applied == [str(n) for n in range(len(group.journal.applied))]
        assert group.log.committed[("g", FIRST)] == len(group.journal.applied) < 5_000

    run(scenario)


def test_stop_cuts_off_a_handler_that_does_not_end():
    async def scenario() -> None:
        group = Group(stop_timeout_s=0.1)
        in_hand = asyncio.Event()

        def hang(event_id: str) -> Any:
            in_hand.set()
            return asyncio.Event().wait()

        group.journal.before = hang  # type: ignore[assignment]
        group.add("a")

        async with group.member(FIRST) as consumer:
            await in_hand.wait()

        assert consumer.stopped.is_set()
        assert group.log.committed == {}

    run(scenario)


def test_stop_does_not_wait_for_a_neighbour_that_is_away():
    async def scenario() -> None:
        group = Group(backoff_s=60.0, backoff_max_s=60.0)
        tried = asyncio.Event()

        def refuse(event_id: str) -> None:
            tried.set()
            raise StoreUnavailable("no answer")

        group.journal.before = refuse
        group.add("a")

        async with group.member(FIRST) as consumer:
            await tried.wait()

        assert consumer.stopped.is_set()
        assert group.log.committed == {}

    run(scenario)


def test_lag_is_told_for_the_partitions_of_this_member_only():
    async def scenario() -> None:
        group = Group()
        group.metrics.set_lag("g", {Partition(TOPIC, 7): 3})

        async with group.member(FIRST):
            await until(
                lambda: group.sample("pynomaly_consumer_lag", topic=TOPIC, partition="0") is not None,
                "the lag is told",
            )

        assert group.sample("pynomaly_consumer_lag", topic=TOPIC, partition="7") is None

    run(scenario)


def test_error_of_the_engine_itself_ends_the_process_instead_of_being_swallowed():
    async def scenario() -> None:
        group = Group()

        async def broken(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError("a mistake in the letter box")

        group.add("raw", value=b"no event")

        with pytest.raises(RuntimeError, match="a mistake"):
            consumer = ManualConsumer(group.log, "g", [FIRST])
            runner = GroupConsumer(
                "g",
                consumer,
                group.producer,
                group.journal,
                decode,
                options=group.options,
                metrics=group.metrics,
            )
            runner._letters.bury = broken  # type: ignore[method-assign]
            await runner.run(asyncio.Event())

        assert consumer.stopped.is_set()

    run(scenario)
