"""Every change of a job's state, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pynomaly_tasks.core.job import AttemptOutcome, DeadReason, JobState, Progress
from pynomaly_tasks.errors import Conflict, JobAlreadyFinal, NotFound, StaleAttempt
from pynomaly_tasks.store.store import Store
from pynomaly_tasks.store.transitions import Settlement
from support.stores import (
    ERROR,
    EXPIRED_S,
    FAILURE,
    LEASE_S,
    SUCCESS,
    add,
    at_once,
    count_results,
    events_of,
    retry_after,
    start,
)


def test_claim_counts_the_attempt_and_leases_it(store: Store) -> None:
    job = start(store, add(store))

    assert (job.state, job.attempt, job.worker) == (JobState.RUNNING, 1, "w1")
    assert job.lease_until_at is not None
    assert job.started_at is not None
    assert abs((job.lease_until_at - job.started_at).total_seconds() - LEASE_S) < 1
    [attempt] = store.list_attempts(job.id)
    assert (attempt.number, attempt.worker, attempt.outcome) == (1, "w1", AttemptOutcome.RUNNING)


def test_claim_of_an_unknown_job_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        store.claim("nobody", "w1", LEASE_S)


def test_only_one_of_20_claims_at_once_gets_the_job(store: Store) -> None:
    job = add(store)

    claims = at_once(20, lambda n: store.claim(job.id, f"w{n}", LEASE_S))

    winners = [changed.job for changed, claimed in claims if claimed]
    assert len(winners) == 1
    assert store.get_job(job.id) == winners[0]
    assert len(store.list_attempts(job.id)) == 1


def test_late_result_of_a_lost_attempt_is_refused_and_the_newer_one_stands(store: Store) -> None:
    first = start(store, add(store), "w1", EXPIRED_S)
    store.lose_expired(max_lost=3, limit=10)
    second = start(store, first, "w2")

    with pytest.raises(StaleAttempt):
        store.settle(first.id, 1, SUCCESS)
    store.settle(second.id, 2, SUCCESS)
    with pytest.raises(StaleAttempt):
        store.settle(first.id, 1, FAILURE)

    assert store.get_job(first.id).state is JobState.SUCCEEDED
    assert store.get_result(first.id).attempt == 2
    assert [attempt.outcome.value for attempt in store.list_attempts(first.id)] == ["lost", "succeeded"]
    assert events_of(store, first.id) == [
        "job.submitted",
        "job.started",
        "job.retrying",
        "job.started",
        "job.completed",
    ]


def test_attempt_settles_once_however_many_try(store: Store) -> None:
    job = start(store, add(store))

    def settle(number: int) -> bool:
        try:
            store.settle(job.id, 1, SUCCESS if number % 2 else FAILURE)
        except StaleAttempt:
            return False
        return True

    assert sum(at_once(12, settle)) == 1
    ended = store.get_job(job.id)
    assert count_results(store) == (ended.state is JobState.SUCCEEDED)
    assert len(events_of(store, job.id)) == 3


def test_result_that_cannot_be_written_leaves_nothing_behind(store: Store) -> None:
    job = start(store, add(store))
    unwritable = Settlement(
        state=JobState.SUCCEEDED,
        outcome=AttemptOutcome.SUCCEEDED,
        summary={},
        detail={"a set": {1, 2}},
    )

    with pytest.raises(Exception, match="not JSON serializable"):
        store.settle(job.id, 1, unwritable)

    assert store.get_job(job.id) == job
    assert store.list_attempts(job.id)[0].outcome is AttemptOutcome.RUNNING
    assert count_results(store) == 0
    assert events_of(store, job.id) == ["job.submitted", "job.started"]


def test_renewed_lease_is_not_lost(store: Store) -> None:
    job = start(store, add(store), "w1", EXPIRED_S)

    store.renew("w1", [job.id], LEASE_S)

    assert store.lose_expired(3, 10) == []


def test_only_the_holder_renews(store: Store) -> None:
    job = start(store, add(store), "w1", EXPIRED_S)

    store.renew("w2", [job.id], LEASE_S)

    assert [change.job.id for change in store.lose_expired(3, 10)] == [job.id]


def test_expired_attempt_is_lost_by_one_of_many_rescuers(store: Store) -> None:
    jobs = [start(store, add(store), "w1", EXPIRED_S) for _ in range(40)]

    lost = [
        change.job.id for changes in at_once(8, lambda _: store.lose_expired(3, 500)) for change in changes
    ]

    assert sorted(lost) == sorted(job.id for job in jobs)


def test_job_that_is_lost_too_often_is_a_dead_letter(store: Store) -> None:
    job = add(store, request={"kept": "as sent"})

    for _ in range(3):
        start(store, job, "w1")
        changed = store.lose(job.id, "w1", ERROR, max_lost=3)

    assert changed is not None
    assert (changed.job.state, changed.job.dead_reason) == (JobState.DEAD, DeadReason.WORKER_KILLED)
    assert not changed.queued
    [letter] = store.list_dead_letters()
    assert (letter.job_id, letter.n_attempts, letter.payload) == (job.id, 3, b'{"kept":"as sent"}')


def test_worker_that_holds_the_job_no_more_cannot_lose_it(store: Store) -> None:
    job = start(store, add(store), "w2")

    assert store.lose(job.id, "w1", ERROR, max_lost=3) is None
    assert store.get_job(job.id) == job


def test_retry_waits_for_its_backoff(store: Store) -> None:
    later = start(store, add(store))
    now = start(store, add(store))

    store.settle(later.id, 1, retry_after(60))
    store.settle(now.id, 1, retry_after(0))
    promoted = store.promote_due(10)

    assert [job.id for job in promoted] == [now.id]
    waiting = store.get_job(later.id)
    assert (waiting.state, waiting.n_failed, waiting.error) == (JobState.WAITING, 1, ERROR)


def test_due_job_is_promoted_by_one_of_many(store: Store) -> None:
    jobs = [start(store, add(store)) for _ in range(40)]
    for job in jobs:
        store.settle(job.id, 1, retry_after(0))

    promoted = [job.id for found in at_once(8, lambda _: store.promote_due(500)) for job in found]

    assert sorted(promoted) == sorted(job.id for job in jobs)


def test_cancel_ends_at_once_what_does_not_run(store: Store) -> None:
    waiting, queued = add(store, delay_s=60), add(store)

    changed = [store.cancel(job.id, "not needed") for job in (waiting, queued)]

    assert {change.job.state for change in changed} == {JobState.CANCELLED}
    assert not store.claim(queued.id, "w1", LEASE_S)[1]
    assert events_of(store, queued.id) == ["job.submitted", "job.cancelled"]


def test_cancel_of_a_running_job_wins_over_its_result(store: Store) -> None:
    job = start(store, add(store))

    asked = store.cancel(job.id, "wrong file")
    assert asked.job.state is JobState.RUNNING
    assert store.find_cancelled("w1") == [job.id]
    assert store.check_attempt(job.id, 1) == (True, True)
    assert store.record_progress(job.id, 1, Progress(current=1, total=2, status="half"))
    ended = store.settle(job.id, 1, SUCCESS)

    assert ended.job.state is JobState.CANCELLED
    assert count_results(store) == 0
    assert store.list_attempts(job.id)[0].outcome is AttemptOutcome.CANCELLED
    with pytest.raises(JobAlreadyFinal, match="cancelled"):
        store.cancel(job.id, "again")


def test_cancelled_job_whose_worker_died_is_not_run_again(store: Store) -> None:
    job = start(store, add(store), "w1", EXPIRED_S)
    store.cancel(job.id, "")

    [change] = store.lose_expired(3, 10)

    assert change.job.state is JobState.CANCELLED
    assert not change.queued


@pytest.mark.parametrize("settlement", [SUCCESS, FAILURE], ids=["succeeded", "failed"])
def test_ended_job_cannot_be_cancelled_claimed_or_buried(store: Store, settlement: Settlement) -> None:
    job = start(store, add(store))
    ended = store.settle(job.id, 1, settlement).job

    with pytest.raises(JobAlreadyFinal):
        store.cancel(job.id, "")
    with pytest.raises(JobAlreadyFinal):
        store.bury(job.id, DeadReason.UNKNOWN_TASK, "")
    assert not store.claim(job.id, "w1", LEASE_S)[1]
    assert store.get_job(job.id) == ended


def test_running_job_is_not_buried_behind_its_attempts_back(store: Store) -> None:
    job = start(store, add(store))

    with pytest.raises(Conflict):
        store.bury(job.id, DeadReason.DEADLINE_PASSED, "the message expired")

    assert store.get_job(job.id) == job


def test_progress_of_a_stale_attempt_is_refused(store: Store) -> None:
    job = start(store, add(store), "w1", EXPIRED_S)
    store.lose_expired(3, 10)
    start(store, job, "w2")

    with pytest.raises(StaleAttempt):
        store.record_progress(job.id, 1, Progress(current=1, total=2, status="late"))
    assert store.check_attempt(job.id, 1) == (False, False)
    assert store.get_job(job.id).progress is None


def test_job_past_its_deadline_is_buried_when_claimed_and_lets_the_next_of_its_key_in(store: Store) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.4)
    first = add(store, ordering_key="k", deadline_at=soon)
    second = add(store, ordering_key="k")

    overdue = []
    while not overdue:  # the deadline passes by the server's clock
        changed, claimed = store.claim(first.id, "w1", LEASE_S)
        if claimed:
            store.settle(first.id, changed.job.attempt, retry_after(0))
            store.promote_due(10)
        overdue = [changed] if changed.job.state is JobState.DEAD else store.bury_overdue(10)

    assert (overdue[0].job.id, overdue[0].job.dead_reason) == (first.id, DeadReason.DEADLINE_PASSED)
    assert [job.id for job in overdue[0].queued] == [second.id]
    assert len(store.list_dead_letters()) == 1


def test_suspect_message_is_given_to_one_of_many_rescuers(store: Store) -> None:
    jobs = [add(store) for _ in range(40)]

    taken = [job.id for found in at_once(8, lambda _: store.take_published_before(-1, 500)) for job in found]

    # Being taken counts as published: with an age of -1 s it is at once a suspect again.
    assert set(taken) == {job.id for job in jobs}
    assert store.take_published_before(30, 500) == []
    store.mark_unpublished([jobs[0].id])
    assert [job.id for job in store.take_published_before(30, 500)] == [jobs[0].id]
