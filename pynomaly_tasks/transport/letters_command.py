"""``python -m pynomaly_tasks.transport.letters``: dead letters in a shell."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import BinaryIO

import click
import orjson
import redis

from pynomaly_tasks.transport.letters import Letter, Letters

_SHOWN_CHARACTERS = 200

_queue = click.option("--queue", help="Only of this queue.")
_ids = click.argument("letter_ids", nargs=-1, metavar="[ID]...")
_all = click.option("--all", "everything", is_flag=True, help="Every letter of --queue.")


@click.group(help="Messages that could not be delivered, or were refused.")
@click.option(
    "--broker", envvar="CELERY_BROKER_URL", default="redis://localhost:6379/0", show_default=True,
    show_envvar=True, metavar="URL", help="Redis, with the number of the database.",
)  # fmt: skip
@click.option("--prefix", default="", help="The app's global_keyprefix.")
@click.pass_context
def main(context: click.Context, broker: str, prefix: str) -> None:
    """Connect, when the command does."""
    client = redis.Redis.from_url(broker, socket_timeout=10.0, socket_connect_timeout=5.0)
    context.call_on_close(client.close)
    context.obj = Letters(client, prefix=prefix)


@main.command("list")
@_queue
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1))
@click.pass_obj
def list_(letters: Letters, queue: str | None, limit: int) -> None:
    """One line each: id, time, queue, bytes, reason."""
    with _explained():
        for letter in islice(letters.list(queue), limit):
            at = f"{letter.at:%Y-%m-%dT%H:%M:%SZ}" if letter.at else "-"
            parts = (letter.id, at, letter.queue, str(len(letter.raw)), letter.reason[:_SHOWN_CHARACTERS])
            click.echo("\t".join(parts))


@main.command()
@click.argument("letter_id", metavar="ID")
@_queue
@click.pass_obj
def show(letters: Letters, letter_id: str, queue: str | None) -> None:
    """A letter with its message, as JSON."""
    with _explained():
        letter = letters.get(letter_id, queue)
    try:
        message = {"message": letter.raw.decode()}
    except UnicodeDecodeError:
        message = {"message_base64": base64.b64encode(letter.raw).decode()}
    shown = {"id": letter.id, "queue": letter.queue, "at": letter.at, "reason": letter.reason, **message}
    click.echo(orjson.dumps(shown, option=orjson.OPT_INDENT_2))


@main.command()
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
    with _explained():
        named = _named(letters, letter_ids, queue, everything)
        _change_each(named, lambda letter: letters.replay(letter, raw), "replayed")


@main.command()
@_ids
@_queue
@_all
@click.pass_obj
def discard(letters: Letters, letter_ids: Sequence[str], queue: str | None, everything: bool) -> None:
    """Remove letters for good."""
    with _explained():
        _change_each(_named(letters, letter_ids, queue, everything), letters.discard, "discarded")


def _named(letters: Letters, ids: Sequence[str], queue: str | None, everything: bool) -> list[Letter]:
    if bool(ids) == everything or (everything and queue is None):
        raise click.UsageError("Name letters by their ids, or take every one of --queue with --all.")
    return list(letters.list(queue)) if everything else [letters.get(each, queue) for each in ids]


def _change_each(named: Sequence[Letter], change: Callable[[Letter], bool], done: str) -> None:
    n_gone = 0
    for letter in named:
        is_done = change(letter)
        n_gone += not is_done
        click.echo(f"{letter.id} {done if is_done else 'is gone: somebody else was faster'}")
    if n_gone:
        raise click.exceptions.Exit(1)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except LookupError as error:
        raise click.ClickException(str(error)) from None
    except redis.RedisError as error:
        raise click.ClickException(f"the broker refused, or gave no answer: {error}") from None
