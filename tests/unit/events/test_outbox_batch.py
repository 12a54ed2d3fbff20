"""What becomes of each event of a batch, whatever the log answers; and what must not be sent after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from pynomaly_tasks.errors import EventLogUnavailable, EventRefused
from pynomaly_tasks.events.outbox_batch import Answers, Batch, Outcome, Row, publish
from pynomaly_tasks.events.ports import Record

UNAVAILABLE = EventLogUnavailable("no leader")


def batch_of(*keys: str, n_attempts: int = 0) -> Batch:
    """Rows numbered from 1."""
    rows = [
        Row(
            number=number,
            key=("t", key),
            n_attempts=n_attempts,
            record=Record(topic="t", key=key.encode(), value=b"%d" % number),
        )
        for number, key in enumerate(keys, 1)
    ]
    return Batch(n_read=len(rows), rows=rows)


def published(
    batch: Batch, answer: Callable[[int, str], Exception | None]
) -> tuple[Outcome, list[list[int]]]:
    """The outcome, and the numbers of each call. ``answer`` of a row; a RuntimeError is raised."""
    calls: list[list[int]] = []

    async def append(records: Sequence[Record]) -> Answers:
        numbers = [int(record.value or b"") for record in records]
        calls.append(numbers)
        answers = [
            answer(number, (record.key or b"").decode())
            for number, record in zip(numbers, records, strict=True)
        ]
        for each in answers:
            if isinstance(each, RuntimeError):
                raise each
        return answers

    return asyncio.run(publish(batch, append)), calls


def numbers(outcome: Outcome) -> list[int]:
    return [row.number for row in outcome.sent]


def test_what_the_log_has_is_sent_and_nothing_waits() -> None:
    outcome, calls = published(batch_of("a", "b", "a"), lambda number, key: None)

    assert numbers(outcome) == [1, 2, 3]
    assert (outcome.failed, outcome.refused, outcome.waiting, outcome.away) == ({}, {}, set(), None)
    assert calls == [[1, 2, 3]]


def test_refused_event_lets_its_key_go_on() -> None:
    outcome, _ = published(
        batch_of("a", "a"), lambda number, key: EventRefused("too large") if number == 1 else None
    )

    assert numbers(outcome) == [2]
    assert outcome.refused == {1: "too large"}
    assert outcome.waiting == set()


def test_only_the_first_event_of_a_key_is_blamed_and_the_key_waits() -> None:
    outcome, _ = published(batch_of("a", "b", "a"), lambda number, key: UNAVAILABLE if key == "a" else None)

    assert outcome.failed == {1: "no leader"}
    assert outcome.waiting == {("t", "a")}
    assert outcome.away is None


def test_log_that_takes_nothing_is_away_and_no_event_is_blamed() -> None:
    outcome, _ = published(batch_of("a", "b"), lambda number, key: UNAVAILABLE)

    assert outcome.failed == {}
    assert outcome.away == "no leader"
    assert outcome.waiting == {("t", "a"), ("t", "b")}


def test_event_that_breaks_the_client_is_found_and_later_ones_of_its_key_are_not_tried() -> None:
    outcome, calls = published(
        batch_of("a", "b", "c", "b", "d", "e", "f", "b"),
        lambda number, key: RuntimeError("broke") if number == 2 else None,
    )

    assert numbers(outcome) == [1, 3, 5, 6, 7]
    assert outcome.failed == {2: "RuntimeError: broke"}
    assert outcome.waiting == {("t", "b")}
    assert [call for call in calls if 4 in call or 8 in call] == [[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4]]


def test_event_that_broke_the_client_five_times_is_given_up() -> None:
    outcome, _ = published(
        batch_of("a", "b", n_attempts=4), lambda number, key: RuntimeError("broke") if number == 1 else None
    )

    assert numbers(outcome) == [2]
    assert list(outcome.refused) == [1]
    assert "failed 5 times" in outcome.refused[1]


def test_client_that_breaks_on_each_of_many_events_is_given_up_soon_and_blames_none() -> None:
    outcome, calls = published(batch_of(*map(str, range(1_000))), lambda number, key: RuntimeError("broke"))

    assert (outcome.failed, outcome.refused) == ({}, {})
    assert outcome.away == "RuntimeError: broke"
    assert len(outcome.waiting) == 1_000
    assert len(calls) < 150


def test_keys_that_were_not_tried_because_the_log_went_away_wait_too() -> None:
    """Else the next batch, read before, would send their later events."""
    went = []

    def answer(number: int, key: str) -> Exception | None:
        if number == 1 and not went:
            went.append(number)
            return RuntimeError("broke")
        return UNAVAILABLE

    outcome, calls = published(batch_of("a", "b", "c", "d"), answer)

    assert calls == [[1, 2, 3, 4], [1, 2]]
    assert outcome.away == "no leader"
    assert outcome.waiting == {("t", key) for key in "abcd"}
    following = batch_of("c", "e")
    following.leave_out(outcome.waiting)
    assert [row.key for row in following.rows] == [("t", "e")]
