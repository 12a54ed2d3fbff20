"""``pynomaly store``: the database."""

from __future__ import annotations

import rich_click as click

from pynomaly_tasks.core.redact import mask_url
from pynomaly_tasks.settings import load_settings


@click.group()
def store() -> None:
    """The database that holds the jobs."""


@store.command()
def migrate() -> None:
    """Bring the tables to this version. Every process does so at its start; run it before a roll-out."""
    from pynomaly_tasks.bootstrap import build_platform
    from pynomaly_tasks.store.store import HEAD

    settings = load_settings()
    _ = build_platform(settings).store
    click.echo(f"{mask_url(settings.store_url())} is at {HEAD}")
