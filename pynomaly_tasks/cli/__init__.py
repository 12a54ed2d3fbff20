"""The ``pynomaly`` command; one file a group."""

from __future__ import annotations

import errno
import sys
from typing import Any

import rich_click as click

from pynomaly_tasks.cli import (
    audit,
    broker_letters,
    config,
    dead_letters,
    demo,
    events,
    jobs,
    kafka,
    messaging,
    outbox,
    store,
    up,
)
from pynomaly_tasks.errors import PynomalyError

#: What a shell reports for a program that Ctrl-C ended.
INTERRUPTED = 130


class _Commands(click.RichGroup):
    """What the platform refuses is one line on standard error and exit code 1, whatever the command."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo(err=True)  # the terminal shows ^C
            ctx.exit(INTERRUPTED)
        except PynomalyError as error:
            click.echo(f"pynomaly: {error}", err=True)
            ctx.exit(1)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # the reader of our output has gone, as `head` does; click ends quietly
            click.echo(f"pynomaly: {error}", err=True)
            ctx.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pynomaly-tasks")
def pynomaly() -> None:
    """Anomaly detection as background jobs: start the platform, look at jobs, mend what failed."""


for command in (
    up.up,
    demo.demo,
    jobs.jobs,
    dead_letters.dead_letters,
    broker_letters.broker_letters,
    messaging.messaging,
    events.events,
    kafka.kafka,
    outbox.outbox,
    audit.audit,
    config.config,
    store.store,
):
    pynomaly.add_command(command)


def main() -> None:
    """Run the command. Exit codes: 0 done, 1 refused or failed, 2 not a command like that, 130 Ctrl-C."""
    try:
        pynomaly()
    except KeyboardInterrupt:  # before or after the command itself
        sys.exit(INTERRUPTED)
