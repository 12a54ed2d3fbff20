"""``pynomaly broker-letters``: what the transport kept in Redis, of any Celery app that uses it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

import rich_click as click

from pynomaly_tasks.cli.terminal import change_each, print_json, print_table
from pynomaly_tasks.errors import Conflict

if TYPE_CHECKING:
    from pynomaly_tasks.transport.letters import Letter, Letters

_queue = click.option("--queue", help="Only of this queue.")
_ids = click.argument("letter_ids", nargs=-1, metavar="[ID]...")
_all = click.option("--all", "everything", is_flag=True, help="Every letter of --queue.")


@click.group("broker-letters")
@click.option(
    "--broker", envvar="CELERY_BROKER_URL", default="redis://localhost:6379/0", show_default=True,
    show_envvar=True, metavar="URL", help="Redis, with the number of the database.",
)  # fmt: skip
@click.option("--prefix", default="", help="The app's global_keyprefix.")
@click.pass_context
def broker_letters(context: click.Context, broker: str, prefix: str) -> None:
    """Look at messages that a Celery app's broker could not deliver; send them again, or discard them.

    For apps that use the transport without the platform: the platform brings its own into its store.
    """
    from pynomaly_tasks.queueing.queue import mapped_errors
    from pynomaly_tasks.transport.letters import Letters

    context.obj = letters = Letters.at(broker, prefix=prefix)
    context.call_on_close(letters.close)
    context.with_resource(mapped_errors())


@broker_letters.command("list")
@_queue
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1))
@click.pass_obj
def list_(letters: Letters, queue: str | None, limit: int) -> None:
    """List them, by queue, newest first."""
    columns = ("id", "at", "queue", "bytes", "reason")
    print_table(columns, map(_row, islice(letters.list(queue), limit)))


@broker_letters.command()
@click.argument("letter_id", metavar="ID")
@_queue
@click.pass_obj
def show(letters: Letters, letter_id: str, queue: str | None) -> None:
    """A letter with its message, as JSON."""
    letter = letters.get(letter_id, queue)
    try:
        message = {"message": letter.raw.decode()}
    except UnicodeDecodeError:
        message = {"message_base64": base64.b64encode(letter.raw).decode()}
    shown = {"id": letter.id, "queue": letter.queue, "at": letter.at, "reason": letter.reason, **message}
    print_json(shown)


@broker_letters.command()
@_ids
@_queue
@_all
@click.option("--message", type=click.File("rb"), help="The mended message, in the place of the one kept.")
@click.pass_obj
def replay(
    letters: Letters, letter_ids: Sequence[str], queue: str | None, everything: bool, message: BinaryIO | None
) -> None:
    """Put messages back into their queues."""
    if message is not None and len(letter_ids) != 1:
        raise click.UsageError("--message takes the place of one message: name one id.")
    raw = None if message is None else message.read()
    named = _named(letters, letter_ids, queue, everything)
    _change_each(named, lambda letter: letters.replay(letter, raw), "replayed")


@broker_letters.command()
@_ids
@_queue
@_all
@click.pass_obj
def discard(letters: Letters, letter_ids: Sequence[str], queue: str | None, everything: bool) -> None:
    """Remove letters for good."""
    _change_each(_named(letters, letter_ids, queue, everything), letters.discard, "discarded")


def _row(letter: Letter) -> tuple[str, ...]:
    at = f"{letter.at:%Y-%m-%d %H:%M:%S}" if letter.at else ""
    return letter.id, at, letter.queue, str(len(letter.raw)), letter.reason


def _named(letters: Letters, ids: Sequence[str], queue: str | None, everything: bool) -> list[Letter]:
    if bool(ids) == everything or (everything and queue is None):
        raise click.UsageError("Name letters by their ids, or take every one of --queue with --all.")
    return list(letters.list(queue)) if everything else [letters.get(each, queue) for each in ids]


def _change_each(named: Sequence[Letter], change: Callable[[Letter], bool], done: str) -> None:
    def change_one(letter: Letter) -> str:
        if not change(letter):
            raise Conflict(f"dead letter {letter.id} is gone: somebody else was faster")
        return f"{letter.id} {done}"

    change_each(named, change_one)
