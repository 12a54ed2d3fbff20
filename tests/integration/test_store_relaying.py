"""The outbox as the relay sees it, on both databases."""

from __future__ import annotations

import threading
from typing import Any

import orjson
import pytest
from sqlalchemy import insert, select, text

from pynomaly_tasks.core.event import OutboxEntry
from pynomaly_tasks.core.ids import new_id
from pynomaly_tasks.core.job import DeadReason
from pynomaly_tasks.core.outbox import UnreadableEntry
from pynomaly_tasks.store.clock import server_now
from pynomaly_tasks.store.store import Store
from pynomaly_tasks.store.tables import dead_letters, outbox
from support.waiting import wait_until


def add(store: Store, *keys: str, topic: str = "job_events", **columns: Any) -> list[int]:
    """Write one event for each key; their numbers."""
    with store._db.writing() as connection:
        return [
            connection.execute(
                insert(outbox)
                .values(
                    **{
                        "event_id": new_id(),
                        "topic": topic,
                        "key": key,
                        "type": "job.started",
                        "payload": {"job_id": key},
                        "created_at": server_now(),
                        **columns,
                    }
                )
                .returning(outbox.c.id)
            ).scalar_one()
            for key in keys
        ]


def numbers(store: Store, limit: int = 100, besides: list[int] | None = None) -> list[int]:
    return [entry.number for entry in store.list_unsent(limit, besides or [])]


def test_unsent_events_are_read_in_their_order_with_all_that_they_say(store):
    first, second = add(store, "a", "b", traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01", version=3)

    entries = store.list_unsent(10)

    assert [entry.number for entry in entries] == [first, second]
    event = entries[0].event
    assert (event.type, event.topic, event.key, event.version) == ("job.started", "job_events", "a", 3)
    assert event.data == {"job_id": "a"}
    assert event.traceparent is not None
    assert event.occurred_at.tzinfo is not None


def test_events_in_flight_are_left_out_of_the_next_read(store):
    written = add(store, *"abcdef")

    assert numbers(store, limit=2, besides=written[:3]) == written[3:5]


def test_large_events_are_read_whole_and_not_too_many_at_once(store):
    large = {"job_id": "a", "text": "x" * 3_000_000}
    written = add(store, *"abcdef", payload=large)
    [small] = add(store, "g")

    entries = store.list_unsent(100)

    assert [entry.number for entry in entries] == written[:3]
    assert entries[0].event.data == large
    assert numbers(store, besides=written[:3]) == [*written[3:], small]
    store.mark_sent(written)
    assert numbers(store) == [small]


def test_marked_events_are_not_read_again_and_pruned_when_old_enough(store):
    written = add(store, *"abcd")

    store.mark_sent(written[:3])

    assert numbers(store) == written[3:]
    assert store.prune_outbox(age_s=3600, limit=10) == 0
    assert store.prune_outbox(age_s=-1, limit=2) == 2
    assert store.prune_outbox(age_s=-1, limit=2) == 1
    assert numbers(store) == written[3:]


def test_events_that_are_not_kept_are_gone_when_they_are_marked(store):
    written = add(store, *"abc")

    store.mark_sent(written[:2], keep=False)

    with store._db.reading() as connection:
        assert list(connection.execute(select(outbox.c.id)).scalars()) == written[2:]


def test_event_whose_transaction_commits_late_is_read_although_later_numbers_were_sent(postgres_url):
    store = Store(postgres_url)
    store.migrate()
    with store._db.writing() as slow:
        late = slow.execute(
            insert(outbox)
            .values(event_id=new_id(), topic="t", key="slow", type="x", payload={}, created_at=server_now())
            .returning(outbox.c.id)
        ).scalar_one()
        [early] = add(store, "quick")
        assert early > late
        assert numbers(store) == [early]
        store.mark_sent([early])

    assert numbers(store) == [late]
    store.close()


def test_failing_event_holds_back_its_key_in_its_topic_only(store):
    a1, b1, a2, b2 = add(store, "a", "b", "a", "b")
    [elsewhere] = add(store, "a", topic="anomaly_events")

    store.hold_back({a1: "no leader"}, longest_s=60)

    assert numbers(store) == [b1, b2, elsewhere]
    status = store.get_outbox_status(10)
    assert (status.lag.n_unsent, status.lag.n_held_back) == (5, 1)
    [held] = status.held_back
    assert (held.topic, held.key, held.n_attempts, held.error) == ("job_events", "a", 1, "no leader")
    store.mark_sent([a1])
    assert numbers(store) == [b1, a2, b2, elsewhere]
    assert store.get_outbox_status(10).held_back == []


def test_key_is_tried_again_after_its_pause_which_doubles_up_to_the_longest(store):
    [a1, a2] = add(store, "a", "a")
    pauses_s = []
    for _ in range(4):
        store.hold_back({a1: "no"}, longest_s=2.0)
        with store._db.reading() as connection:
            retry_at, now = connection.execute(
                select(outbox.c.retry_at, server_now()).where(outbox.c.id == a1)
            ).one()
            pauses_s.append((retry_at - now).total_seconds())

    assert pauses_s == pytest.approx([0.5, 1.0, 2.0, 2.0], abs=0.3)
    assert numbers(store) == []
    wait_until(lambda: numbers(store) == [a1, a2], 10.0, "the key to be due")
    assert store.list_unsent(1)[0].n_attempts == 4


def test_refused_event_goes_to_the_dead_letters_and_its_key_goes_on(store):
    a1, a2 = add(store, "a", "a")
    store.hold_back({a1: "once"}, longest_s=60)

    assert store.refuse({a1: "too large: 2 MiB\0\ud800"}) == 1
    assert store.refuse({a1: "again"}) == 0

    assert numbers(store) == [a2]
    [letter] = store.list_dead_letters()
    assert letter.reason is DeadReason.EVENT_REFUSED
    assert (letter.kind, letter.queue, letter.n_attempts) == ("job.started", "job_events", 2)
    assert letter.message.startswith("too large: 2 MiB")
    envelope = orjson.loads(letter.payload)
    assert (envelope["type"], envelope["key"], envelope["data"]) == ("job.started", "a", {"job_id": "a"})
    with store._db.reading() as connection:
        assert connection.execute(select(dead_letters.c.job_id)).scalar_one() is None


def test_event_that_was_published_meanwhile_is_not_refused(store):
    [a1] = add(store, "a")
    store.mark_sent([a1])

    assert store.refuse({a1: "late"}) == 0
    assert store.list_dead_letters() == []


@pytest.mark.parametrize("payload", ["[1]", '"text"', '{"a": "\\ud800"}', "null"])
def test_row_that_is_no_event_does_not_keep_the_others_from_being_read(store, payload):
    a1, b1 = add(store, "a", "b")
    value = ":payload" if store._db.is_sqlite else "CAST(:payload AS json)"
    with store._db.writing() as connection:
        connection.execute(
            text(f"UPDATE outbox SET payload = {value} WHERE id = :id"), {"payload": payload, "id": a1}
        )

    unreadable, readable = store.list_unsent(10)

    assert isinstance(unreadable, UnreadableEntry)
    assert unreadable.number == a1
    assert isinstance(readable, OutboxEntry)
    assert readable.number == b1
    assert store.refuse({a1: unreadable.reason}) == 1
    assert numbers(store) == [b1]


def test_one_relay_holds_the_lease_until_it_gives_it_up_or_is_not_heard_of(store):
    assert store.take_relay_lease("one", 60.0)
    assert not store.take_relay_lease("two", 60.0)
    assert store.take_relay_lease("one", 60.0, error="the log is away")
    assert store.get_outbox_lag().relay == "one"
    assert store.get_outbox_lag().last_error == "the log is away"

    store.give_up_relay_lease("two")
    assert not store.take_relay_lease("two", 60.0)
    store.give_up_relay_lease("one")
    assert store.take_relay_lease("two", -1.0)
    assert store.get_outbox_lag().relay is None
    assert store.take_relay_lease("three", 60.0)


def test_of_many_relays_that_start_at_once_one_takes_the_lease(store):
    taken: list[str] = []
    barrier = threading.Barrier(6)

    def take(name: str) -> None:
        barrier.wait(20)
        if store.take_relay_lease(name, 60.0):
            taken.append(name)

    threads = [threading.Thread(target=take, args=(f"r{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(taken) == 1


def test_lag_of_an_empty_outbox_is_nothing(store):
    lag = store.get_outbox_lag()

    assert (lag.n_unsent, lag.oldest_age_s, lag.n_held_back, lag.relay) == (0, None, 0, None)


def test_lag_tells_how_long_the_oldest_event_waits(store):
    add(store, "a", created_at=server_now() - 30)
    add(store, "b")

    lag = store.get_outbox_lag()

    assert lag.n_unsent == 2
    assert lag.oldest_age_s == pytest.approx(30, abs=5)
