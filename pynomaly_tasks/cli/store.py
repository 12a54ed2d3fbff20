"""``pynomaly store``: the database."""

from __future__ import annotations

import rich_click as click

from pynomaly_tasks.cli.connection import connect
from pynomaly_tasks.core.redact import mask_url


@click.group()
def store() -> None:
    """The database that holds the jobs."""


@store.command()
def migrate() -> None:
    """Bring the tables to this version. Every process does so at its start; run it before a roll-out."""
    platform = connect()
    from pynomaly_tasks.store.store import HEAD

    _ = platform.store  # brought to this version when it is opened
    click.echo(f"{mask_url(platform.settings.store_url())} is at {HEAD}")
