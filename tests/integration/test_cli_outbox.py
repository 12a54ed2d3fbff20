"""``pynomaly outbox`` as an operator and a monitor see it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from pynomaly_tasks.core.event import OutboxEntry
from pynomaly_tasks.store.clock import server_now
from pynomaly_tasks.store.store import Store
from pynomaly_tasks.store.tables import outbox
from support.command_line import run
from support.stores import add


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"PYNOMALY_DATA__DIRECTORY": str(tmp_path), "COLUMNS": "250"}


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Store]:
    """A store whose outbox holds the events of three jobs, a minute old."""
    store = Store(f"sqlite:///{tmp_path / 'jobs.sqlite3'}")
    store.migrate()
    for name in ("a", "b", "c"):
        add(store, id=name)
    with store._db.writing() as connection:
        connection.execute(update(outbox).values(created_at=server_now() - 60))
    yield store
    store.close()


def test_empty_outbox_is_fine_and_names_how_to_start_a_relay(env: dict[str, str]) -> None:
    done = run("outbox", env=env)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "waiting: 0",
        "relay: none publishes; start one: python -m workers.relay",
        "keys held back: 0",
    ]


def test_late_events_are_told_by_the_exit_code(env: dict[str, str], full: Store) -> None:
    late, early = run("outbox", "--max-age", "30", env=env), run("outbox", "--max-age", "600", env=env)

    assert (late.returncode, early.returncode) == (3, 0)
    assert late.stdout.startswith("waiting: 3, the oldest for 6")


def test_held_back_key_is_shown_with_its_error_and_told_by_the_exit_code(
    env: dict[str, str], full: Store
) -> None:
    first = full.list_unsent(1)[0]
    full.hold_back({first.number: "partition 1 has no leader"}, longest_s=600)

    done = run("outbox", "--max-age", "600", env=env)

    assert done.returncode == 3
    assert "keys held back: 1" in done.stdout
    assert done.stdout.splitlines()[-1].split("\t")[:4] == ["job_events", "a", "job.submitted", "1"]
    assert done.stdout.splitlines()[-1].endswith("partition 1 has no leader")


def test_json_holds_everything_and_why_the_relay_cannot_publish(env: dict[str, str], full: Store) -> None:
    full.take_relay_lease("host:1:ab", 60.0, error="Kafka gave no answer")

    done = run("outbox", "--json", env=env)

    status = json.loads(done.stdout)
    assert status["lag"] == {
        "n_unsent": 3,
        "oldest_age_s": pytest.approx(60, abs=30),
        "n_held_back": 0,
        "relay": "host:1:ab",
        "last_error": "Kafka gave no answer",
    }
    assert status["held_back"] == []


def test_reason_is_shown_to_people_too(env: dict[str, str], full: Store) -> None:
    full.take_relay_lease("host:1:ab", 60.0, error="Kafka gave no answer")

    assert "cannot publish: Kafka gave no answer" in run("outbox", env=env).stdout


def test_refused_event_is_published_after_all_once_it_is_mended(env: dict[str, str], full: Store) -> None:
    first = full.list_unsent(1)[0]
    full.refuse({first.number: "the field queue is too long"})
    [letter] = full.list_dead_letters()
    shown = json.loads(run("dead-letters", "show", str(letter.id), env=env).stdout)
    assert shown["payload"]["type"] == "job.submitted"
    assert "dead-letters replay" in shown["what_to_do"]

    done = run("dead-letters", "replay", str(letter.id), "--edit", "queue=short", env=env)
    again = run("dead-letters", "replay", str(letter.id), env=env)

    assert (done.returncode, done.stdout) == (0, f"event {shown['payload']['id']}\n"), done.stderr
    assert again.returncode == 1
    entries = full.list_unsent(10)
    assert isinstance(first, OutboxEntry)
    [put_back] = [
        each for each in entries if isinstance(each, OutboxEntry) and each.event.id == first.event.id
    ]
    assert put_back.event.data == {**first.event.data, "queue": "short"}
    assert put_back.event.occurred_at == first.event.occurred_at
    assert put_back.number > max(
        each.number for each in entries if each.event.type == "job.submitted" and each is not put_back
    )
    assert entries[-1].event.type == "audit.dead_letter.replayed"
