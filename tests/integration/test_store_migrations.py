"""Databases of earlier versions are brought to this one, with what is in them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from pynomaly_tasks.core.event import OutboxEntry
from pynomaly_tasks.store.store import HEAD, MIGRATIONS, Store
from pynomaly_tasks.store.tables import metadata


@pytest.fixture
def old_store(store_url: str) -> Iterator[Store]:
    """At 0001, with three events that no version before this one could publish."""
    store = Store(store_url)
    with store._db.writing() as connection:
        command.upgrade(_config(connection), "0001")
        for key in ("a", "b", "a"):
            connection.execute(
                text(
                    "INSERT INTO outbox (topic, key, type, payload, created_at) "
                    "VALUES ('job_events', :key, 'job.started', :payload, 1.0)"
                ),
                {"key": key, "payload": '{"job_id": "' + key + '"}'},
            )
    yield store
    store.close()


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def test_events_of_before_get_ids_of_their_own_and_wait_to_be_published(old_store: Store) -> None:
    old_store.migrate()

    entries = old_store.list_unsent(10)
    assert all(isinstance(entry, OutboxEntry) for entry in entries)
    events = [entry.event for entry in entries if isinstance(entry, OutboxEntry)]
    assert [event.key for event in events] == ["a", "b", "a"]
    assert [event.data for event in events] == [{"job_id": "a"}, {"job_id": "b"}, {"job_id": "a"}]
    assert len({event.id for event in events}) == 3
    assert {event.version for event in events} == {1}


def test_migrated_tables_are_those_of_the_code(old_store: Store) -> None:
    old_store.migrate()

    with old_store._db.writing() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == HEAD
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    assert differences == []


def test_migration_can_be_taken_back_and_made_again(old_store: Store) -> None:
    old_store.migrate()
    with old_store._db.writing() as connection:
        command.downgrade(_config(connection), "0001")
        assert connection.execute(text("SELECT count(*) FROM outbox")).scalar_one() == 3
        command.upgrade(_config(connection), "head")

    assert len(old_store.list_unsent(10)) == 3
