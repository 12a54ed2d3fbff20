import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pynomaly_tasks.core.event import Event
from pynomaly_tasks.errors import BadEvent, StoreUnavailable
from pynomaly_tasks.events import replay as replays
from pynomaly_tasks.events.ports import Partition, Record, StoredRecord
from pynomaly_tasks.events.replay import ReplayRange, ReplayReport, read_all, replay
from support.manual_log import ManualLog, ManualReader

TOPIC = "job_events"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Effect:
    def __init__(self, batch_size: int = 3) -> None:
        self.batch_size = batch_size
        self.batches: list[tuple[str | None, list[str]]] = []
        self.errors: dict[str, list[Exception]] = {}

    async def apply(self, events: Sequence[Event], *, replay_id: str | None = None) -> int:
        for event in events:
            if waiting := self.errors.get(event.id):
                raise waiting.pop() if len(waiting) > 1 else waiting[0]
        self.batches.append((replay_id, [event.id for event in events]))
        return len(events)

    async def close(self) -> None: ...


def fill(log: ManualLog, *ids: str, at: datetime = NOON, partition: int = 0) -> None:
    for event_id in ids:
        stored = log.append(Record(topic=TOPIC, key=bytes([48 + partition]), value=event_id.encode()))
        place = Partition(TOPIC, partition)
        log.records[place][-1] = StoredRecord(
            topic=TOPIC, key=stored.key, value=stored.value, partition=partition, offset=stored.offset, at=at
        )


def decode(record: StoredRecord) -> Event:
    text = (record.value or b"").decode()
    if text.startswith("bad"):
        raise BadEvent("not_json", text)
    return Event(
        id=text, type="job.failed" if text.startswith("f") else "job.completed", version=1, topic=TOPIC,
        key="k", occurred_at=record.at, data={},
    )  # fmt: skip


def read(log: ManualLog, which: ReplayRange, page: int) -> list[str]:
    async def everything() -> list[str]:
        return [(one.value or b"").decode() async for one in read_all(ManualReader(log), which, page=page)]

    return asyncio.run(asyncio.wait_for(everything(), 10))


def run(log: ManualLog, effect: Effect, **options: Any) -> ReplayReport:
    ranges = [ReplayRange(topic=TOPIC)]
    return asyncio.run(
        asyncio.wait_for(replay(ManualReader(log), ranges, effect, decode, replay_id="r", **options), 20)
    )


@pytest.mark.parametrize("page", [1, 2, 3, 100])
def test_everything_is_read_once_in_order_whatever_a_page_holds(page: int) -> None:
    log = ManualLog()
    fill(log, "a", "b", "c", "d")  # one instant
    fill(log, "e", at=NOON + timedelta(seconds=1))

    assert read(log, ReplayRange(topic=TOPIC), page) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("page", [1, 2, 100])
def test_range_ends_before_its_end_and_begins_at_its_offset(page: int) -> None:
    log = ManualLog()
    fill(log, "a", "b")
    fill(log, "c", at=NOON + timedelta(seconds=1))
    fill(log, "d", at=NOON + timedelta(seconds=2))
    fill(log, "x", "y", "z", partition=1)

    end = NOON + timedelta(seconds=2)
    assert read(log, ReplayRange(topic=TOPIC, partition=0, from_offset=1, until=end), page) == ["b", "c"]
    assert read(log, ReplayRange(topic=TOPIC, since=NOON + timedelta(seconds=1)), page) == ["c", "d"]


def test_events_are_applied_in_batches_under_the_id_of_the_replay() -> None:
    log, effect = ManualLog(), Effect()
    fill(log, "a", "f1", "b", "bad", "c", "f2")

    report = run(log, effect, patterns=["job.c*"])

    assert effect.batches == [("r", ["a", "b", "c"])]
    assert (report.n_read, report.n_matching, report.n_applied) == (6, 3, 3)
    assert [error.reason for _, error in report.bad] == ["not_json"]


def test_dry_run_applies_nothing() -> None:
    log, effect = ManualLog(), Effect()
    fill(log, "a", "b")

    report = run(log, effect, dry_run=True)

    assert (effect.batches, report.n_matching, report.n_applied) == ([], 2, 0)


def test_event_that_fails_is_told_and_the_rest_goes_on() -> None:
    log, effect = ManualLog(), Effect()
    effect.errors["b"] = [ValueError("no")]
    fill(log, "a", "b", "c", "d")

    report = run(log, effect)

    assert effect.batches == [("r", ["a"]), ("r", ["c"]), ("r", ["d"])]
    assert [(event.id, str(error)) for event, error in report.failed] == [("b", "no")]


def test_neighbour_that_comes_back_is_waited_for_and_one_that_does_not_ends_the_replay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def at_once(delay_s: float) -> None: ...

    monkeypatch.setattr(replays.asyncio, "sleep", at_once)
    log, effect = ManualLog(), Effect()
    fill(log, "a")
    effect.errors["a"] = [StoreUnavailable("away")]

    with pytest.raises(StoreUnavailable):
        run(log, effect)

    effect.errors["a"] = []
    assert run(log, effect).n_applied == 1
