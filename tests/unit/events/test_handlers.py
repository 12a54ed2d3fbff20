import asyncio
import threading
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from pynomaly_tasks.core.event import Event
from pynomaly_tasks.core.job_events import JobCompleted, JobFailed
from pynomaly_tasks.errors import InvalidInput, NotFound, StoreUnavailable
from pynomaly_tasks.events.effect import MAX_INBOX_KEY, inbox_key
from pynomaly_tasks.events.handlers import HandlerEffect, Handlers, HandlerTimedOut, on_event, topics_of
from support.event_groups import completed, failed


class Inbox:
    """In memory; the store's own is tested on real databases."""

    def __init__(self) -> None:
        self.marked: set[tuple[str, str]] = set()
        self.n_asked = 0

    def missing(self, group: str, keys: Collection[str]) -> set[str]:
        self.n_asked += 1
        return {key for key in keys if (group, key) not in self.marked}

    def mark(self, group: str, keys: Collection[str]) -> None:
        self.marked |= {(group, key) for key in keys}


def effect_of(handlers: Handlers, inbox: Inbox, timeout_s: float = 5.0) -> HandlerEffect:
    return HandlerEffect(handlers.of("g"), inbox, timeout_s=timeout_s, own_source="/ours")


def apply(effect: HandlerEffect, *events: Event, replay_id: str | None = None) -> int:
    return asyncio.run(asyncio.wait_for(effect.apply(events, replay_id=replay_id), 20))


def test_plain_handler_runs_in_a_thread_async_one_on_the_loop_both_with_typed_data() -> None:
    handlers, calls = Handlers(), []

    @on_event("job.completed", group="g", handlers=handlers)
    def plain(event: Event, data: JobCompleted) -> None:
        calls.append(("plain", threading.current_thread() is threading.main_thread(), data.summary))

    @on_event("job.*", group="g", handlers=handlers)
    async def asynchronous(event: Event, data: Any) -> None:
        calls.append(("async", threading.current_thread() is threading.main_thread(), type(data)))

    assert apply(effect_of(handlers, Inbox()), completed("j"), failed("j")) == 2

    assert calls == [
        ("plain", False, {"anomalies_found": 3}),
        ("async", True, JobCompleted),
        ("async", True, JobFailed),
    ]


def test_event_is_handed_to_a_handler_once_and_once_more_by_each_replay() -> None:
    handlers, inbox, calls = Handlers(), Inbox(), []
    on_event("job.*", group="g", handlers=handlers)(lambda event, data: calls.append(event.id))
    event = completed("j")

    counts = [
        apply(effect_of(handlers, inbox), event, event, replay_id=name)
        for name in (None, None, "r1", "r1", "r2")
    ]

    assert counts == [1, 0, 1, 0, 1]
    assert calls == [event.id] * 3


def test_event_that_no_handler_wants_costs_the_store_nothing() -> None:
    handlers, inbox = Handlers(), Inbox()
    on_event("audit.*", group="g", handlers=handlers)(lambda event, data: None)

    assert apply(effect_of(handlers, inbox), completed("j")) == 0
    assert inbox.n_asked == 0


def test_error_passes_and_only_what_failed_is_repeated() -> None:
    handlers, inbox, calls = Handlers(), Inbox(), []

    @on_event("job.*", group="g", handlers=handlers)
    def first(event: Event, data: Any) -> None:
        calls.append("first")

    @on_event("job.*", group="g", handlers=handlers)
    def second(event: Event, data: Any) -> None:
        calls.append("second")
        if calls.count("second") == 1:
            raise StoreUnavailable("away")

    event = completed("j")
    with pytest.raises(StoreUnavailable):
        apply(effect_of(handlers, inbox), event)
    assert apply(effect_of(handlers, inbox), event) == 1

    assert calls == ["first", "second", "second"]


def test_handler_that_takes_too_long_has_failed_by_itself() -> None:
    handlers, done = Handlers(), threading.Event()
    on_event("job.completed", group="g", timeout_s=0.05, handlers=handlers)(lambda event, data: done.wait(10))

    @on_event("job.failed", group="g", handlers=handlers)
    async def hang(event: Event, data: Any) -> None:
        await asyncio.Event().wait()

    for event in (completed("j"), failed("j")):
        with pytest.raises(HandlerTimedOut, match=r"longer than 0\.05 s") as late:
            apply(effect_of(handlers, Inbox(), timeout_s=0.05), event)
        assert not getattr(late.value, "retryable", False)
    done.set()


def test_topics_are_those_of_the_types_that_the_patterns_fit() -> None:
    handlers = Handlers()
    on_event("job.completed", "audit.*", group="g", handlers=handlers)(print)
    on_event("*", group="all", handlers=handlers)(print)

    assert topics_of(handlers.of("g")) == ("audit_events", "job_events")
    assert topics_of(handlers.of("all")) == ("anomaly_events", "audit_events", "job_events", "system_events")


def test_pattern_that_no_type_fits_is_refused_with_the_handler_that_asks() -> None:
    handlers = Handlers()
    on_event("job.complete", group="g", handlers=handlers)(print)

    with pytest.raises(
        InvalidInput, match=r"print asks for job\.complete, and no type of the catalogue fits"
    ):
        topics_of(handlers.of("g"))


@pytest.mark.parametrize(
    ("patterns", "options", "field"),
    [
        ((), {"group": "g"}, "patterns"),
        (("",), {"group": "g"}, "patterns"),
        (("job.*",), {"group": ""}, "group"),
        (("job.*",), {"group": "a b"}, "group"),
        (("job.*",), {"group": "x" * 101}, "group"),
        (("job.*",), {"group": "g", "timeout_s": 0}, "timeout_s"),
        (("job.*",), {"group": "g", "timeout_s": float("nan")}, "timeout_s"),
    ],
)
def test_wrong_registration_is_refused_by_field(patterns: tuple[str, ...], options: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        on_event(*patterns, **options)

    assert [problem.field for problem in refused.value.problems] == [field]


def test_group_without_handlers_is_refused_with_those_there_are() -> None:
    handlers = Handlers()
    on_event("job.*", group="billing", handlers=handlers)(print)

    with pytest.raises(NotFound, match="the group biling; registered: billing"):
        handlers.of("biling")


def test_module_that_is_loaded_twice_registers_its_handlers_once() -> None:
    handlers = Handlers()
    for _ in range(2):
        on_event("job.*", group="g", handlers=handlers)(print)

    assert len(handlers.of("g")) == 1


def test_event_of_another_source_is_another_event() -> None:
    event = completed("j", id="1")

    assert inbox_key(replace(event, source="/ours"), "/ours") == inbox_key(event, "/ours") == "1"
    assert inbox_key(replace(event, source="/theirs"), "/ours") == "/theirs#1"
    assert inbox_key(event, "/ours", "replay-1") == "replay-1/1"


def test_key_that_is_too_long_for_its_column_is_hashed_and_stays_unique() -> None:
    keys = {inbox_key(completed("j", id="1", source="/" + "x" * 250 + end), "/ours") for end in "ab"}

    assert len(keys) == 2
    assert all(len(key) <= MAX_INBOX_KEY for key in keys)
