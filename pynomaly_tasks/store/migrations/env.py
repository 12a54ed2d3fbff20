"""Alembic's entry: migrates over the connection that `Store.migrate` hands in."""

from __future__ import annotations

from alembic import context

from pynomaly_tasks.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection, target_metadata=metadata, render_as_batch=connection.dialect.name == "sqlite"
)
context.run_migrations()
