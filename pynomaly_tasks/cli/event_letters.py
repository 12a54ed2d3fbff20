"""``pynomaly events dead-letters``: events that a consumer group could not apply."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson
import rich_click as click

from pynomaly_tasks.cli.connection import connect
from pynomaly_tasks.cli.event_groups import imported
from pynomaly_tasks.cli.terminal import one_line, print_json, print_table
from pynomaly_tasks.errors import Conflict, NotFound, PynomalyError

if TYPE_CHECKING:
    from pynomaly_tasks.bootstrap import Platform
    from pynomaly_tasks.events.dead_letters import EventLetter

_group = click.option("--group", help="Only of this group.")
_reason = click.option("--reason", help="Only with this reason, such as handler_failed.")
_ids = click.argument("letter_ids", nargs=-1, metavar="[ID]...")
_dry_run = click.option("--dry-run", is_flag=True, help="Only say which.")


@click.group("dead-letters")
def dead_letters() -> None:
    """Look at events that a group could not apply; have the group try again, or discard them."""


@dead_letters.command("list")
@_group
@_reason
@click.option("--all", "everything", is_flag=True, help="The redriven and discarded ones too.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1))
def list_(group: str | None, reason: str | None, everything: bool, limit: int) -> None:
    """List them, newest first."""
    letters = _matching(asyncio.run(_letters(connect())), group, reason, open_only=not everything)
    columns = ("id", "at", "group", "topic", "place", "reason", "attempts", "settled", "message")
    print_table(columns, map(_row, letters[::-1][:limit]))


@dead_letters.command()
@click.argument("letter_id", metavar="ID")
def show(letter_id: str) -> None:
    """Print one with its message, as JSON."""
    letter = _one(asyncio.run(_letters(connect())), letter_id)
    record = letter.record
    print_json(
        {
            "id": letter.id,
            "group": letter.group,
            "reason": letter.reason,
            "message": letter.message,
            "attempts": letter.n_attempts,
            "at": letter.at,
            "settled": letter.decision,
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "appended_at": record.at,
            "cut_from_bytes": letter.cut_from_bytes,
            "key": _readable(record.key),
            "headers": [[name, _readable(value)] for name, value in record.headers],
            "value": _readable(record.value),
        }
    )


@dead_letters.command()
@_ids
@_group
@_reason
@_dry_run
@imported
def redrive(letter_ids: tuple[str, ...], group: str | None, reason: str | None, dry_run: bool) -> None:
    """Have the group of each apply it now; those that fail again stay."""
    platform = connect()
    sys.exit(asyncio.run(_redrive(platform, letter_ids, group, reason, dry_run)))


@dead_letters.command()
@_ids
@_group
@_reason
@_dry_run
def discard(letter_ids: tuple[str, ...], group: str | None, reason: str | None, dry_run: bool) -> None:
    """Decide against them; they stay in the topic until its retention ends."""
    platform = connect()
    sys.exit(asyncio.run(_discard(platform, letter_ids, group, reason, dry_run)))


async def _letters(platform: Platform) -> list[EventLetter]:
    from pynomaly_tasks.events.dead_letters import DEAD_LETTER_EVENTS, open_letters
    from pynomaly_tasks.events.replay import ReplayRange, read_all

    reader = platform.event_reader()
    return open_letters([one async for one in read_all(reader, ReplayRange(topic=DEAD_LETTER_EVENTS))])


async def _redrive(
    platform: Platform, ids: Sequence[str], group: str | None, reason: str | None, dry_run: bool
) -> int:
    from pynomaly_tasks.consumers.groups import build_group
    from pynomaly_tasks.consumers.run import decoder
    from pynomaly_tasks.events.dead_letters import LetterBox
    from pynomaly_tasks.events.replay import apply_patiently

    chosen = _chosen(await _letters(platform), ids, group, reason)
    effects = {name: build_group(platform, name).effect for name in {letter.group for letter in chosen}}
    box, refused = LetterBox(platform.event_producer()), False
    try:
        for letter in chosen:
            try:
                _require_whole(letter)
                event = decoder(platform)(letter.record)
                if not dry_run:
                    await apply_patiently(effects[letter.group], [event], None)
                    await box.settle(letter, "redriven")
            except Exception as error:
                if getattr(error, "retryable", False):
                    raise  # the others would fare the same
                refused = True
                click.echo(
                    f"pynomaly: {letter.id} stays: {one_line(f'{type(error).__name__}: {error}')}", err=True
                )
            else:
                click.echo(f"{letter.id} {'would be applied' if dry_run else 'applied'} by {letter.group}")
    finally:
        await box.close()
        for effect in effects.values():
            await effect.close()
    return int(refused)


async def _discard(
    platform: Platform, ids: Sequence[str], group: str | None, reason: str | None, dry_run: bool
) -> int:
    from pynomaly_tasks.events.dead_letters import LetterBox

    box = LetterBox(platform.event_producer())
    try:
        for letter in _chosen(await _letters(platform), ids, group, reason):
            if not dry_run:
                await box.settle(letter, "discarded")
            click.echo(f"{letter.id} {'would be discarded' if dry_run else 'discarded'}")
    finally:
        await box.close()
    return 0


def _chosen(
    letters: Sequence[EventLetter], ids: Sequence[str], group: str | None, reason: str | None
) -> Sequence[EventLetter]:
    if bool(ids) == bool(group or reason):
        raise click.UsageError("Name dead letters by their ids, or by --group and --reason; not by both.")
    if not ids:
        return _matching(letters, group, reason, open_only=True)
    found = [_one(letters, letter_id) for letter_id in dict.fromkeys(ids)]
    for letter in found:
        if letter.decision is not None:
            raise Conflict(f"dead letter {letter.id} was {letter.decision} before")
    return found


def _matching(
    letters: Sequence[EventLetter], group: str | None, reason: str | None, *, open_only: bool
) -> Sequence[EventLetter]:
    return [
        letter
        for letter in letters
        if group in (None, letter.group)
        and reason in (None, letter.reason)
        and not (open_only and letter.decision is not None)
    ]


def _one(letters: Sequence[EventLetter], letter_id: str) -> EventLetter:
    for letter in letters:
        if letter.id == letter_id:
            return letter
    raise NotFound(f"there is no dead letter {letter_id} of events")


def _require_whole(letter: EventLetter) -> None:
    if letter.cut_from_bytes is not None:
        raise PynomalyError(
            f"only the beginning of its {letter.cut_from_bytes:,} bytes was kept; the whole message is at "
            f"{letter.record.topic}:{letter.record.partition}:{letter.record.offset}, while the topic holds it"
        )


def _row(letter: EventLetter) -> tuple[str, ...]:
    return (
        letter.id,
        f"{letter.at:%Y-%m-%d %H:%M:%S}",
        letter.group,
        letter.record.topic,
        f"{letter.record.partition}:{letter.record.offset}",
        letter.reason,
        str(letter.n_attempts),
        letter.decision or "",
        letter.message,
    )


def _readable(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        pass
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
