"""Databases of earlier versions are brought to this one, with what is in them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from pynomaly_tasks.store.store import HEAD, MIGRATIONS, Store
from pynomaly_tasks.store.tables import metadata


@pytest.fixture
def old_store(store_url: str) -> Iterator[Store]:
    """At 0001, with three events, which no version before this one could publish."""
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


def test_events_of_before_which_no_consumer_could_read_are_not_published_and_go_in_time(
    old_store: Store,
) -> None:
    old_store.migrate()

    assert old_store.list_unsent(10) == []
    assert old_store.prune_outbox(age_s=60.0, limit=10) == 3


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

    assert old_store.prune_outbox(age_s=60.0, limit=10) == 3
