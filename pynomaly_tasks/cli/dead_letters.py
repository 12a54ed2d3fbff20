"""``pynomaly dead-letters``: work kept for a person."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson
import rich_click as click

from pynomaly_tasks.cli.connection import connect
from pynomaly_tasks.cli.filters import edited
from pynomaly_tasks.cli.terminal import change_each, print_json, print_table
from pynomaly_tasks.cli.values import named_values
from pynomaly_tasks.core.audit_events import user_at
from pynomaly_tasks.core.job import DeadLetter, DeadReason
from pynomaly_tasks.errors import Conflict

if TYPE_CHECKING:
    from pynomaly_tasks.bootstrap import Platform

_PAGE = 500
_reasons = click.Choice([reason.value for reason in DeadReason])


@click.group("dead-letters")
def dead_letters() -> None:
    """Look at dead letters, run their jobs again, or discard them."""


@dead_letters.command("list")
@click.option("--reason", type=_reasons)
@click.option("--all", "everything", is_flag=True, help="The replayed and discarded ones too.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000))
def list_(reason: str | None, everything: bool, limit: int) -> None:
    """List dead letters, newest first."""
    letters = connect().store.list_dead_letters(
        limit=limit, reason=DeadReason(reason) if reason else None, open_only=not everything
    )
    columns = ("id", "job", "kind", "queue", "reason", "attempts", "created", "settled", "message")
    print_table(columns, [_row(letter) for letter in letters])


@dead_letters.command()
@click.argument("letter_id", type=int)
def show(letter_id: int) -> None:
    """Print a dead letter with its payload as JSON."""
    letter = connect().store.get_dead_letter(letter_id)
    print_json({**asdict(letter), **_readable(letter.payload), "what_to_do": _what_to_do(letter)})


@dead_letters.command()
@click.argument("letter_ids", type=int, nargs=-1, required=True)
@edited
def replay(letter_ids: tuple[int, ...], edits: tuple[str, ...]) -> None:
    """Run the jobs of dead letters again as new ones, send their messages again; print the new ids."""
    changes = named_values("--edit", edits)
    platform = connect()
    actor = user_at("cli")
    from pynomaly_tasks.queueing.kept import can_be_replayed, replay_message

    def replay_one(letter_id: int) -> str:
        letter = platform.store.get_dead_letter(letter_id)
        if letter.replayed_as is not None or (letter.job_id is None and not can_be_replayed(letter)):
            raise Conflict(f"dead letter {letter_id}: {_what_to_do(letter)}")
        if letter.job_id is None:
            return replay_message(platform, letter, changes, actor)
        return platform.replay(letter.job_id, changes, actor=actor).id

    change_each(letter_ids, replay_one)


@dead_letters.command()
@click.argument("letter_ids", type=int, nargs=-1)
@click.option("--reason", type=_reasons, help="Discard every open one with this reason.")
@click.option("--dry-run", is_flag=True, help="Only say what would be discarded.")
def discard(letter_ids: tuple[int, ...], reason: str | None, dry_run: bool) -> None:
    """Decide against dead letters; they stay on record until their job is forgotten."""
    if bool(letter_ids) == bool(reason):
        raise click.UsageError("Name dead letters by their ids, or all of one --reason; not both.")
    platform = connect()
    actor = user_at("cli")

    def discard_one(letter_id: int) -> str:
        if not dry_run:
            platform.store.discard(letter_id, actor)
            return f"{letter_id} discarded"
        letter = platform.store.get_dead_letter(letter_id)
        if _settled(letter):
            raise Conflict(f"dead letter {letter_id} was discarded or replayed before")
        return f"{letter_id} would be discarded"

    change_each(letter_ids or _open_ids(platform, str(reason)), discard_one)


def _open_ids(platform: Platform, reason: str) -> list[int]:
    ids: list[int] = []
    while page := platform.store.list_dead_letters(
        _PAGE, ids[-1] if ids else None, DeadReason(reason), open_only=True
    ):
        ids += [letter.id for letter in page]
    return ids


def _row(letter: DeadLetter) -> tuple[str, ...]:
    return (
        str(letter.id),
        letter.job_id or "",
        letter.kind or "",
        letter.queue,
        letter.reason.value,
        str(letter.n_attempts),
        f"{letter.created_at:%Y-%m-%d %H:%M:%S}",
        _settled(letter),
        letter.message,
    )


def _settled(letter: DeadLetter) -> str:
    if letter.replayed_as is not None:
        return f"replayed as {letter.replayed_as}"
    return "" if letter.discarded_at is None else "discarded"


def _readable(payload: bytes) -> dict[str, Any]:
    try:
        return {"payload": orjson.loads(payload)}
    except orjson.JSONDecodeError:
        pass
    try:
        return {"payload": payload.decode()}
    except UnicodeDecodeError:
        return {"payload": None, "payload_base64": base64.b64encode(payload).decode()}


def _what_to_do(letter: DeadLetter) -> str:
    if letter.replayed_as is not None and letter.reason is DeadReason.EVENT_REFUSED:
        return f"is to be published as {letter.replayed_as}; a new dead letter says where that failed too"
    if letter.replayed_as is not None:
        return f"was replayed as job {letter.replayed_as}; replay that one if it failed too"
    if letter.discarded_at is not None:
        again = f"jobs replay {letter.job_id}" if letter.job_id else f"dead-letters replay {letter.id}"
        return f"was discarded; `pynomaly {again}` still runs it again"
    if letter.job_id is None:
        from pynomaly_tasks.queueing.kept import can_be_replayed

        if not can_be_replayed(letter):
            return (
                "is a message that never became a job, so there is nothing to run again: mend what sent it, "
                f"send it again, then `pynomaly dead-letters discard {letter.id}`"
            )
    return (
        f"`pynomaly dead-letters replay {letter.id}` (with --edit FIELD=VALUE to change the request), "
        f"or `pynomaly dead-letters discard {letter.id}`"
    )
