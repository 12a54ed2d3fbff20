"""What the store keeps for people, for how long, and how its tables are made; on both databases."""

from __future__ import annotations

import pytest

from pynomaly_tasks.core.job import DeadReason, JobState
from pynomaly_tasks.errors import Conflict, DeliveryFailed, NotFound
from pynomaly_tasks.store.reads import JobFilter
from pynomaly_tasks.store.store import HEAD, Store
from support.stores import FAILURE, SUCCESS, add, at_once, start


def test_many_processes_make_the_tables_at_once(store_url: str) -> None:
    stores = [Store(store_url) for _ in range(6)]

    at_once(6, lambda n: stores[n].migrate())

    assert {store._db.revision() for store in stores} == {HEAD}
    assert add(stores[0]).state is JobState.QUEUED
    for store in stores:
        store.close()


def test_unreadable_message_is_kept_with_its_bytes(store: Store) -> None:
    store.add_unreadable("reports", None, b"\x00\xff", DeadReason.UNREADABLE, "it is no JSON")

    [letter] = store.list_dead_letters()

    assert (letter.job_id, letter.queue, letter.payload) == (None, "reports", b"\x00\xff")
    assert store.get_dead_letter(letter.id) == letter


def test_dead_letters_come_newest_first_in_pages_and_by_reason(store: Store) -> None:
    for n in range(5):
        reason = DeadReason.UNREADABLE if n % 2 else DeadReason.UNKNOWN_TASK
        store.add_unreadable("q", None, str(n).encode(), reason, "")

    first = store.list_dead_letters(limit=2)
    rest = store.list_dead_letters(before_id=first[-1].id)

    assert [letter.payload for letter in first + rest] == [b"4", b"3", b"2", b"1", b"0"]
    assert len(store.list_dead_letters(reason=DeadReason.UNREADABLE)) == 2


def test_dead_letter_is_discarded_once_and_not_after_its_replay(store: Store) -> None:
    discarded, replayed = (store.bury(add(store).id, DeadReason.UNKNOWN_TASK, "nobody").job for _ in range(2))
    letters = {letter.job_id: letter.id for letter in store.list_dead_letters()}

    store.discard(letters[discarded.id])
    store.mark_replayed(replayed.id, "another")

    for job in (discarded, replayed):
        with pytest.raises(Conflict):
            store.discard(letters[job.id])
    with pytest.raises(NotFound):
        store.discard(10_000)
    assert store.list_dead_letters(open_only=True) == []
    assert store.get_dead_letter(letters[replayed.id]).replayed_as == "another"


def test_only_jobs_that_ended_long_ago_are_removed_with_all_that_hangs_on_them(store: Store) -> None:
    ended, running = start(store, add(store)), start(store, add(store))
    store.settle(ended.id, 1, SUCCESS)

    assert store.list_ended_before(3_600, 10) == []
    assert store.list_ended_before(-1, 10) == [ended.id]
    assert store.delete_jobs([ended.id, running.id]) == 1

    assert store.find_job(ended.id) is None
    assert store.list_attempts(ended.id) == []
    with pytest.raises(NotFound):
        store.get_result(ended.id)
    assert store.get_job(running.id).state is JobState.RUNNING


def test_jobs_are_found_by_state_tag_owner_and_page(store: Store) -> None:
    jobs = [add(store, tags=("nightly", f"t{n}"), owner="ann" if n else "bob") for n in range(5)]
    store.settle(start(store, jobs[0]).id, 1, FAILURE)

    assert [job.id for job in store.list_jobs(tag="t3")] == [jobs[3].id]
    assert store.list_jobs(tag="t") == []
    assert len(store.list_jobs(owner="ann", tag="nightly")) == 4
    assert [job.id for job in store.list_jobs(states=[JobState.FAILED])] == [jobs[0].id]
    page = store.list_jobs(limit=2)
    assert [job.id for job in page + store.list_jobs(before_seq=page[-1].seq)] == [
        job.id for job in reversed(jobs)
    ]
    assert store.count_jobs(JobFilter(states=[JobState.QUEUED])) == 4
    assert store.count_by_state() == {("default", JobState.QUEUED): 4, ("default", JobState.FAILED): 1}


def test_delivery_is_begun_until_it_is_done(store: Store) -> None:
    deliveries = store.deliveries

    assert deliveries.begin("key", "mail", "job")
    deliveries.finish("key", "mail", "refused")
    assert deliveries.begin("key", "mail", "job")
    deliveries.finish("key", "mail", None)

    assert not deliveries.begin("key", "mail", "job")
    assert deliveries.begin("key", "chat", "job")


def test_delivery_that_a_running_job_has_begun_is_not_begun_by_another_one(store: Store) -> None:
    deliveries = store.deliveries
    first, second = start(store, add(store)), start(store, add(store))
    assert deliveries.begin("key", "mail", first.id)

    with pytest.raises(DeliveryFailed, match=f"the job {first.id} is sending key there just now"):
        deliveries.begin("key", "mail", second.id)
    assert deliveries.begin("key", "mail", first.id), "its own next attempt may"

    deliveries.finish("key", "mail", None)
    assert not deliveries.begin("key", "mail", second.id)


def test_delivery_that_a_job_has_begun_and_ended_without_is_begun_anew(store: Store) -> None:
    deliveries = store.deliveries
    first, second = start(store, add(store)), start(store, add(store))
    assert deliveries.begin("key", "mail", first.id)

    store.settle(first.id, 1, FAILURE)

    assert deliveries.begin("key", "mail", second.id)
    with pytest.raises(DeliveryFailed, match=second.id):
        deliveries.begin("key", "mail", start(store, add(store)).id)


def test_of_20_jobs_that_begin_a_delivery_at_once_one_does(store: Store) -> None:
    running = [start(store, add(store)).id for _ in range(20)]

    def begin(number: int) -> bool:
        try:
            return store.deliveries.begin("key", "mail", running[number])
        except DeliveryFailed:
            return False

    assert sum(at_once(20, begin)) == 1
