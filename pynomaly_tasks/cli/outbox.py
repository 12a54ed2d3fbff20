"""``pynomaly outbox``: how far publishing events is behind."""

from __future__ import annotations

import sys
from dataclasses import asdict

import rich_click as click

from pynomaly_tasks.cli.connection import connect
from pynomaly_tasks.cli.terminal import print_json, print_table
from pynomaly_tasks.core.outbox import HeldBack, OutboxStatus

#: What a monitor is told: the events are late, as told by --max-age or because a key is held back.
BEHIND = 3


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--max-age",
    "max_age_s",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="An event that waits longer than this makes the exit code 3.",
)
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(0, 10_000), help="Held-back keys to list."
)
def outbox(as_json: bool, max_age_s: float, limit: int) -> None:
    """Show which events wait to be published, and why.

    Exit code 3 when the oldest event waits longer than --max-age or a key is held back, else 0.
    """
    status = connect().store.get_outbox_status(limit)
    if as_json:
        print_json(asdict(status))
    else:
        _print(status)
    lag = status.lag
    if lag.n_held_back or (lag.oldest_age_s or 0.0) > max_age_s:
        sys.exit(BEHIND)


def _print(status: OutboxStatus) -> None:
    lag = status.lag
    waits = "" if lag.oldest_age_s is None else f", the oldest for {lag.oldest_age_s:.1f} s"
    click.echo(f"waiting: {lag.n_unsent:,}{waits}")
    click.echo(f"relay: {lag.relay or 'none publishes; start one: python -m workers.relay'}")
    if lag.last_error is not None:
        click.echo(f"cannot publish: {lag.last_error}")
    click.echo(f"keys held back: {lag.n_held_back:,}")
    if status.held_back:
        columns = ("topic", "key", "event", "tries", "next try", "error")
        print_table(columns, [_row(held) for held in status.held_back])


def _row(held: HeldBack) -> tuple[str, ...]:
    return (
        held.topic,
        held.key,
        held.type,
        str(held.n_attempts),
        f"{held.retry_at:%Y-%m-%d %H:%M:%S}",
        held.error,
    )
