"""The state that every process computes from Kafka's ledger: the same for all, and right."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynomaly_tasks.messaging.backends.kafka.ledger import Claimed, Ledger


class Log:
    """Writes records and says what came of each."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.records: list[tuple[int, int, bytes]] = []

    def write(self, step: str, *arguments: Any, at_ms: int = 0) -> Any:
        offset = len(self.records)
        record = (offset, at_ms, orjson.dumps(["me", offset, step, *arguments]))
        self.records.append(record)
        applied = self.ledger.apply(*record)
        assert applied is not None
        assert applied[:2] == ("me", offset)
        return applied[2]

    def take(
        self, end: int, n: int = 10, *, lease_ms: int = 1_000, at_ms: int = 0
    ) -> list[tuple[Claimed, int]]:
        lane_id = self.ledger.lanes["q"].id
        return self.write("take", [["q", lane_id, end]], n, lease_ms, at_ms=at_ms)  # type: ignore[no-any-return]


@pytest.fixture
def log() -> Log:
    log = Log()
    log.write("make", "q")
    return log


def _offsets(taken: list[tuple[Claimed, int]]) -> list[tuple[int, int]]:
    return [(claimed[2], n_earlier) for claimed, n_earlier in taken]


def test_two_claims_share_what_is_there(log: Log) -> None:
    assert _offsets(log.take(5, 3)) == [(0, 0), (1, 0), (2, 0)]
    assert _offsets(log.take(5, 3)) == [(3, 0), (4, 0)]
    assert log.take(5) == []


def test_what_a_dead_holder_had_is_handed_out_again_by_the_brokers_clock(log: Log) -> None:
    (first, _), _ = log.take(2, at_ms=100)

    assert log.take(2, at_ms=1_099) == []
    assert _offsets(log.take(2, 1, at_ms=1_100)) == [(0, 1)]
    assert log.write("settle", [first], at_ms=1_100) == [False]


def test_late_holder_settles_what_nobody_else_was_given(log: Log) -> None:
    ((claimed, _),) = log.take(1, at_ms=0)

    assert log.write("extend", [claimed], 500, at_ms=5_000) == [True]
    assert log.take(1, at_ms=5_499) == []
    assert log.write("settle", [claimed], at_ms=9_000) == [True]
    assert log.write("settle", [claimed], at_ms=9_000) == [False]


def test_released_item_keeps_its_place_and_its_old_holder_can_do_nothing(log: Log) -> None:
    (first, _), (second, _) = log.take(2)
    assert log.write("release", [second], True) == [True]
    assert log.write("release", [first], False) == [True]

    assert log.write("settle", [first]) == [False]
    assert log.write("extend", [first], 9) == [False]
    assert _offsets(log.take(4)) == [(0, 0), (1, 1), (2, 0), (3, 0)]


def test_clock_that_goes_back_brings_no_lease_back(log: Log) -> None:
    log.take(1, at_ms=0)
    assert _offsets(log.take(1, at_ms=2_000)) == [(0, 1)]
    assert log.take(1, at_ms=500) == []


def test_purge_leaves_what_is_held(log: Log) -> None:
    (held, _), (released, _) = log.take(2)
    log.write("release", [released], True)

    assert log.write("purge", "q", 0, 7) == 6
    assert log.write("settle", [held]) == [True]
    assert log.take(7) == []
    assert _offsets(log.take(8)) == [(7, 0)]


def test_item_is_removed_once_and_only_while_nobody_holds_it(log: Log) -> None:
    log.take(1)

    assert [log.write("drop", "q", 0, at, 5) for at in (0, 2, 2, 1, 9, -1)] == [
        False, True, False, True, False, False,
    ]  # fmt: skip
    assert _offsets(log.take(5)) == [(3, 0), (4, 0)]


def test_lane_made_again_is_another_one(log: Log) -> None:
    ((claimed, _),) = log.take(1)
    log.write("erase", "q")
    assert log.ledger.erased == [("q", 0)]
    again = log.write("make", "q")

    assert again != 0
    assert log.write("settle", [claimed]) == [False]
    assert log.write("take", [["q", 0, 5]], 5, 1_000) == []
    assert _offsets(log.take(1)) == [(0, 0)]


@pytest.mark.parametrize(
    "raw",
    [
        None, b"", b"\xff", b"{}", b"[]", b"7", b'["me",1]', b'["me",1,"no such step"]', b'["me",1,["take"]]',
        b'["me",1,"take"]', b'["me",1,"take",7,7,7]', b'["me",1,"settle",[["q"]]]', b'["me",1,"declare","n",7]',
        b'["me",1,"take",[["q",0,"x"]],1,1]', b'["me",1,"note","k","m","x"]', b'["me",1,"make",[]]',
    ],
)  # fmt: skip
def test_record_of_somebody_else_changes_nothing(log: Log, raw: bytes | None) -> None:
    before = log.ledger.to_snapshot()

    assert log.ledger.apply(1, 0, raw) is None
    assert log.ledger.to_snapshot() == before


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "settle", "release", "extend", "drop", "purge", "send"]),
        st.integers(0, 9), st.integers(0, 400),
    ),
    max_size=60,
)  # fmt: skip


@given(STEPS, st.integers(0, 60))
def test_any_history_hands_each_item_to_one_holder_at_a_time_and_a_snapshot_continues_it(
    steps: list[tuple[str, int, int]], cut: int
) -> None:
    log = Log()
    log.write("make", "q")
    now_ms = end = 0
    held: dict[int, tuple[Claimed, int]] = {}
    late: list[Claimed] = []
    settled: set[int] = set()
    copy, n_before = Ledger(), 0
    for n, (step, number, passes_ms) in enumerate(steps):
        now_ms += passes_ms
        if n == cut:
            copy = Ledger.from_snapshot(orjson.loads(orjson.dumps(log.ledger.to_snapshot())))
            n_before = len(log.records)
        expired = [at for at, (_, until_ms) in held.items() if until_ms <= now_ms]
        if step == "send":
            end += number
        elif step == "take":
            taken = log.take(end, number, lease_ms=500, at_ms=now_ms)
            for claimed, _ in taken:
                assert claimed[2] not in settled
                assert claimed[2] not in held or claimed[2] in expired
                if claimed[2] in held:
                    late.append(held[claimed[2]][0])
                held[claimed[2]] = (claimed, now_ms + 500)
            assert [claimed[2] for claimed, _ in taken] == sorted(claimed[2] for claimed, _ in taken)
        elif step in ("settle", "release", "extend") and held:
            at = sorted(held)[number % len(held)]
            arguments = {"settle": (), "release": (True,), "extend": (500,)}[step]
            assert log.write(step, [held[at][0], *late], *arguments, at_ms=now_ms) == [
                True,
                *[False] * len(late),
            ]
            claimed, _ = held.pop(at)
            if step == "extend":
                held[at] = (claimed, now_ms + 500)
            elif step == "settle":
                settled.add(at)
        elif step == "drop":
            was_there = log.write("drop", "q", 0, number, end, at_ms=now_ms)
            assert was_there == (
                number < end and number not in settled and (number not in held or number in expired)
            )
            if was_there:
                settled.add(number)
                held.pop(number, None)
        elif step == "purge":
            waiting = set(range(end)) - settled - (set(held) - set(expired))
            assert log.write("purge", "q", 0, end, at_ms=now_ms) == len(waiting)
            settled |= waiting
            held = {at: each for at, each in held.items() if at not in waiting}
    for record in log.records[n_before:]:
        copy.apply(*record)

    assert _sorted(copy.to_snapshot()) == _sorted(log.ledger.to_snapshot())


def _sorted(state: dict[str, Any]) -> dict[str, Any]:
    return {
        **state,
        "lanes": {name: [*lane[:2], sorted(lane[2]), lane[3]] for name, lane in state["lanes"].items()},
    }
