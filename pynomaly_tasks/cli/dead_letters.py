"""``pynomaly dead-letters``: work kept for a person."""

from __future__ import annotations

from typing import Any

import orjson
import rich_click as click
from rich.table import Table

from pynomaly_tasks.cli.terminal import console
from pynomaly_tasks.core.job import DeadReason


@click.group("dead-letters")
def dead_letters() -> None:
    """Look at dead letters and discard them; ``pynomaly jobs replay`` runs them again."""


@dead_letters.command("list")
@click.option("--reason", type=click.Choice([reason.value for reason in DeadReason]))
@click.option("--all", "everything", is_flag=True, help="The replayed and discarded ones too.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
def list_(reason: str | None, everything: bool, limit: int) -> None:
    """List dead letters, newest first."""
    table = Table("id", "job", "kind", "reason", "attempts", "message", box=None)
    letters = _store().list_dead_letters(
        limit=limit, reason=DeadReason(reason) if reason else None, open_only=not everything
    )
    for letter in letters:
        table.add_row(
            str(letter.id),
            letter.job_id or "",
            letter.kind or "",
            letter.reason.value,
            str(letter.n_attempts),
            letter.message[:100],
        )
    console().print(table)


@dead_letters.command()
@click.argument("letter_id", type=int)
def show(letter_id: int) -> None:
    """Print a dead letter with its payload."""
    letter = _store().get_dead_letter(letter_id)
    click.echo(
        orjson.dumps(
            {"letter": {**_plain(letter), "payload": repr(letter.payload)}}, option=orjson.OPT_INDENT_2
        ).decode()
    )


@dead_letters.command()
@click.argument("letter_ids", type=int, nargs=-1, required=True)
def discard(letter_ids: tuple[int, ...]) -> None:
    """Decide against dead letters; they stay on record until their job is forgotten."""
    for letter_id in letter_ids:
        _store().discard(letter_id)
        click.echo(f"{letter_id} discarded")


def _plain(letter: Any) -> dict[str, Any]:
    return {name: getattr(letter, name) for name in letter.__slots__}


def _store() -> Any:
    from pynomaly_tasks.bootstrap import current_platform

    return current_platform().store
