"""``pynomaly events``: what is published, and who consumes it."""

from __future__ import annotations

import rich_click as click

from pynomaly_tasks.cli import event_groups, event_letters, event_log, event_types


@click.group()
def events() -> None:
    """Look at domain events and their consumer groups; run, replay and mend them."""


for command in (
    event_types.list_,
    event_types.schema,
    event_types.asyncapi,
    event_groups.consume,
    event_groups.lag,
    event_groups.replay,
    event_letters.dead_letters,
    event_log.groups,
    event_log.forget_group,
):
    events.add_command(command)
