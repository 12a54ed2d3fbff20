"""New jobs: idempotency, order, and many at once, on both databases."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from pynomaly_tasks.core.job import JobState
from pynomaly_tasks.errors import IdempotencyMismatch, InvalidRequest
from pynomaly_tasks.store.reads import JobFilter
from pynomaly_tasks.store.store import Store
from support.stores import SUCCESS, add, at_once, events_of, new_job, retry_after, start


def test_same_idempotency_key_from_20_threads_at_once_makes_one_job(store: Store) -> None:
    stored = at_once(20, lambda _: store.insert_jobs([new_job(idempotency_key="once")])[0])

    assert len({job.id for job, _ in stored}) == 1
    assert sum(created for _, created in stored) == 1
    assert store.count_jobs(JobFilter()) == 1
    assert events_of(store, stored[0][0].id) == ["job.submitted"]


def test_same_id_twice_is_one_job(store: Store) -> None:
    first = add(store, id="named")

    [(again, created)] = store.insert_jobs([new_job(id="named")])

    assert (again, created) == (first, False)


def test_idempotency_key_with_another_request_is_refused_and_nothing_is_stored(store: Store) -> None:
    add(store, idempotency_key="k")

    with pytest.raises(IdempotencyMismatch, match="'k'"):
        store.insert_jobs([new_job(), new_job(idempotency_key="k", request={"n": 2}), new_job()])

    assert store.count_jobs(JobFilter()) == 1


def test_5000_jobs_are_stored_in_one_transaction_in_their_order(store: Store) -> None:
    new = [new_job(request={"n": n}, idempotency_key=f"k{n}") for n in range(5_000)]

    began_s = time.monotonic()
    stored = store.insert_jobs(new)
    took_s = time.monotonic() - began_s
    again = store.insert_jobs(new)

    print(f"\n5,000 jobs stored in {took_s:.2f} s")
    assert [job.request["n"] for job, _ in stored] == list(range(5_000))
    assert all(earlier.seq < later.seq for (earlier, _), (later, _) in pairwise(stored))
    assert all(created for _, created in stored)
    assert not any(created for _, created in again)
    assert store.count_jobs(JobFilter()) == 5_000


def test_deadline_before_the_start_is_refused(store: Store) -> None:
    now = datetime.now(UTC)

    with pytest.raises(InvalidRequest, match="deadline_at"):
        add(store, deadline_at=now - timedelta(seconds=5))
    with pytest.raises(InvalidRequest, match="deadline_at"):
        add(store, run_at=now + timedelta(hours=2), deadline_at=now + timedelta(hours=1))
    assert store.count_jobs(JobFilter()) == 0


def test_delayed_job_waits(store: Store) -> None:
    job = add(store, delay_s=3600)

    assert job.state is JobState.WAITING
    assert not store.has_due_jobs()
    assert store.promote_due(10) == []


def test_only_the_first_of_an_ordering_key_is_let_in(store: Store) -> None:
    first, second, other = (add(store, ordering_key=key) for key in ("k", "k", "other"))

    assert [job.state for job in (first, second, other)] == [
        JobState.QUEUED,
        JobState.WAITING,
        JobState.QUEUED,
    ]
    assert store.promote_due(10) == []
    ended = store.settle(start(store, first).id, 1, SUCCESS)
    assert [job.id for job in ended.queued] == [second.id]


def test_priority_does_not_overtake_within_an_ordering_key(store: Store) -> None:
    first = add(store, ordering_key="k", priority=0)
    urgent = add(store, ordering_key="k", priority=9)

    assert not store.claim(urgent.id, "w1", 60)[1]
    assert store.claim(first.id, "w1", 60)[1]


def test_retry_keeps_its_place_before_the_next_of_its_key(store: Store) -> None:
    first, second = (add(store, ordering_key="k") for _ in range(2))

    failed = store.settle(start(store, first).id, 1, retry_after(60))

    assert not failed.queued
    assert store.promote_due(10) == []
    assert store.get_job(second.id).state is JobState.WAITING


def test_cancelled_job_lets_the_next_of_its_key_in(store: Store) -> None:
    first, second, third = (add(store, ordering_key="k") for _ in range(3))

    assert not store.cancel(second.id, "").queued
    assert [job.id for job in store.cancel(first.id, "").queued] == [third.id]


def test_submissions_at_once_run_one_at_a_time_in_the_order_of_their_numbers(store: Store) -> None:
    jobs = at_once(16, lambda n: add(store, ordering_key="k", request={"n": n}))

    order = []
    while due := [*store.list_jobs(states=[JobState.QUEUED]), *store.promote_due(10)]:
        [job] = due
        order.append(job.seq)
        store.settle(start(store, job).id, 1, SUCCESS)

    assert order == sorted(job.seq for job in jobs)
    assert len(order) == 16
