"""What groups of consumers keep in a real database."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import StatementError

from pynomaly_tasks.store.audit import AuditEntry, AuditFilter
from pynomaly_tasks.store.store import Store
from pynomaly_tasks.store.tables import inbox

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def entry(event_id: str, **what: Any) -> AuditEntry:
    return AuditEntry(
        **{
            "event_id": event_id,
            "type": "audit.job_cancelled",
            "actor": "ana",
            "subject": "job-1",
            "occurred_at": NOON,
            "data": {"reason": "typo"},
            **what,
        }
    )


def ids(store: Store, **which: Any) -> list[str]:
    return [one.event_id for _, one in store.audit.list(AuditFilter(**which))]


def test_group_knows_what_it_has_applied_and_other_groups_do_not(store: Store):
    store.inbox.mark("audit", ["a", "b"])
    store.inbox.mark("audit", ["b", "c"])

    assert store.inbox.missing("audit", ["a", "c", "d"]) == {"d"}
    assert store.inbox.missing("alerts", ["a"]) == {"a"}


def test_entries_are_recorded_once_with_their_keys(store: Store):
    assert store.audit.record("audit", {"a": entry("a"), "b": entry("b")}) == 2
    assert store.audit.record("audit", {"b": entry("b"), "c": entry("c")}) == 1

    assert sorted(ids(store)) == ["a", "b", "c"]
    assert store.inbox.missing("audit", ["a", "b", "c"]) == set()


def test_entry_that_cannot_be_kept_leaves_none_of_its_batch_and_no_key(store: Store):
    with pytest.raises((TypeError, StatementError), match="not JSON serializable"):
        store.audit.record("audit", {"a": entry("a"), "b": entry("b", data={"bad": object()})})

    assert ids(store) == []
    assert store.inbox.missing("audit", ["a", "b"]) == {"a", "b"}


def test_replay_adds_what_is_missing_only(store: Store):
    store.audit.record("audit", {"a": entry("a")})

    store.audit.record("audit", {"replay-1/a": entry("a"), "replay-1/b": entry("b")})

    assert sorted(ids(store)) == ["a", "b"]


def test_members_that_apply_the_same_events_at_once_apply_each_once(store: Store):
    entries = {f"e{n}": entry(f"e{n}") for n in range(200)}
    backwards = dict(reversed(entries.items()))

    with ThreadPoolExecutor(2) as pool:
        counts = list(pool.map(lambda batch: store.audit.record("audit", batch), [entries, backwards]))

    assert sorted(counts) == [0, 200]
    assert len(store.audit.list(limit=1_000)) == 200


def test_log_is_filtered_by_type_actor_subject_and_time(store: Store):
    later = NOON + timedelta(hours=1)
    for name, what in {
        "one": {},
        "two": {"actor": "ben"},
        "three": {"subject": "job-2", "occurred_at": later},
        "four": {"type": "audit.jobXcancelled"},
    }.items():
        store.audit.record("audit", {name: entry(name, **what)})

    assert ids(store) == ["four", "three", "two", "one"]
    assert ids(store, actor="ben") == ["two"]
    assert ids(store, subject="job-2") == ["three"]
    assert ids(store, since=later) == ["three"]
    assert ids(store, until=later, actor="ana") == ["four", "one"]
    assert ids(store, type_pattern="audit.job_*") == ["three", "two", "one"]


def test_text_that_is_too_long_or_holds_nul_is_cut_in_the_columns_and_whole_in_the_data(store: Store):
    long = "x" * 1_000
    store.audit.record(
        "audit", {"a": entry("a", actor=long, subject="a\0b", data={"actor": long, "s": "a\0b"})}
    )

    [(_, kept)] = store.audit.list()
    assert (kept.actor, kept.subject) == ("x" * 255, "a\N{REPLACEMENT CHARACTER}b")
    assert kept.data == {"actor": long, "s": "a\0b"}


def test_only_what_is_old_is_forgotten_and_only_of_the_group(store: Store):
    store.inbox.mark("audit", ["old-1", "old-2", "new"])
    store.inbox.mark("alerts", ["old-1"])
    with store._db.writing() as connection:
        connection.execute(
            update(inbox).where(inbox.c.event_id.like("old-%")).values(applied_at=NOON - timedelta(days=365))
        )

    assert store.inbox.prune("audit", age_s=60.0, limit=1) == 1
    assert store.inbox.prune("audit", age_s=60.0) == 1

    assert store.inbox.missing("audit", ["old-1", "old-2", "new"]) == {"old-1", "old-2"}
    assert store.inbox.missing("alerts", ["old-1"]) == set()
