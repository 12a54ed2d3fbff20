"""The ``pynomaly`` command; one file a group."""

from __future__ import annotations

import sys

import rich_click as click

from pynomaly_tasks.cli import config, dead_letters, demo, jobs, store, up
from pynomaly_tasks.errors import PynomalyError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pynomaly-tasks")
def pynomaly() -> None:
    """Anomaly detection as background jobs: start the platform, look at jobs, mend what failed."""


for command in (up.up, demo.demo, jobs.jobs, dead_letters.dead_letters, config.config, store.store):
    pynomaly.add_command(command)


def main() -> None:
    """Run the command; what the platform refuses is one line on standard error, and exit code 1."""
    try:
        pynomaly()
    except PynomalyError as error:
        click.echo(f"pynomaly: {error}", err=True)
        sys.exit(1)
