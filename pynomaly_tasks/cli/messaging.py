"""``pynomaly messaging``: the message queues, their workers, and what each broker can do."""

from __future__ import annotations

import asyncio
import base64
import importlib
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from pynomaly_tasks.cli.event_groups import Since
from pynomaly_tasks.cli.messaging_metrics import measured
from pynomaly_tasks.cli.messaging_tasks import tasks
from pynomaly_tasks.cli.terminal import print_json, print_table
from pynomaly_tasks.errors import InvalidSettings
from pynomaly_tasks.settings import load_settings

if TYPE_CHECKING:
    from pynomaly_tasks.messaging import DeadLetter, DeadLetters, QueueManager

T = TypeVar("T")

_queue = click.argument("queue")
_ids = click.argument("letter_ids", nargs=-1, metavar="[ID]...")
_all = click.option("--all", "everything", is_flag=True, help="Every letter of the queue.")


@click.group()
def messaging() -> None:
    """Message queues of your own, beside the jobs."""


messaging.add_command(tasks)


@messaging.command()
def capabilities() -> None:
    """What each backend can do: native, emulated above it, or absent."""
    from pynomaly_tasks.messaging import capability_rows, capability_table

    head, *rows = capability_rows(capability_table())
    print_table(head, rows)


@messaging.command()
def queues() -> None:
    """List the queues with what waits in them."""
    columns = (
        "queue",
        "kind",
        "depth",
        "in flight",
        "delayed",
        "oldest s",
        "acknowledged",
        "failed",
        "dead letters",
    )
    print_table(columns, _with_manager(_queue_rows))


@messaging.command()
@click.option(
    "--queues",
    "names",
    metavar="A,B",
    help="Queues to take from. Default: the setting messaging.consumer_group.",
)
@click.option(
    "--handlers", required=True, metavar="MODULE:FUNCTION",
    help="A function of yours; it is given the worker, and adds its handlers to it.",
)  # fmt: skip
@click.option("--concurrency", type=click.IntRange(1, 10_000), help="Handlers at once. Default: the setting.")
@click.option(
    "--batch-size", type=click.IntRange(1, 1_000), help="Messages of one fetch. Default: the setting."
)
@click.option("--once", is_flag=True, help="Handle what waits now, and end: for cron.")
def worker(
    names: str | None, handlers: str, concurrency: int | None, batch_size: int | None, once: bool
) -> None:
    """Handle messages until SIGTERM or Ctrl-C; then finish what is in hand, and take nothing more."""
    register = _find(handlers)
    names = load_settings().messaging.consumer_group if names is None else names
    if names is None:
        raise click.UsageError("name --queues, or set messaging.consumer_group")
    queues = [name.strip() for name in names.split(",") if name.strip()]
    asyncio.run(_work(queues, register, concurrency, batch_size, once))


@messaging.command()
@_queue
@click.option("--since", type=Since(), help="1h, 7d, or an instant. Messages from then on.")
@click.option("--offset", type=click.IntRange(0), help="From there on, in place of --since.")
def replay(queue: str, since: datetime | None, offset: int | None) -> None:
    """Send the settled messages of a queue again, where the broker keeps them."""
    start = offset if since is None else since
    if start is None or (since is not None and offset is not None):
        raise click.UsageError("Say from where: either --since, or --offset.")

    async def send_again(manager: QueueManager) -> int:
        return await manager.replay(queue, since=start)

    click.echo(f"{_with_manager(send_again)} sent again")


@messaging.group("dead-letters")
def dead_letters() -> None:
    """Messages that could not be done. Those that nobody subscribed to have the queue ''."""


@dead_letters.command("list")
@click.option("--queue", help="Only of this queue.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1))
def list_(queue: str | None, limit: int) -> None:
    """List them, by queue, oldest first."""

    async def rows(manager: QueueManager) -> list[tuple[str, ...]]:
        letters = await manager.dead_letters.list_letters(queue, limit=limit)
        return [
            (each.queue, each.id, each.dead_at.isoformat(timespec="seconds"), each.reason.value, str(each.n_attempts),
             each.topic, each.error)
            for each in letters
        ]  # fmt: skip

    print_table(("queue", "id", "at", "reason", "attempts", "topic", "error"), _with_manager(rows))


@dead_letters.command()
@_queue
@click.argument("letter_id", metavar="ID")
def show(queue: str, letter_id: str) -> None:
    """A letter with its message, as JSON; bytes that are no message as base64."""

    async def find(manager: QueueManager) -> DeadLetter:
        return await manager.dead_letters.show(queue, letter_id)

    letter = _with_manager(find)
    message = letter.message
    print_json(
        {
            "queue": letter.queue,
            "id": letter.id,
            "message_id": letter.message_id,
            "reason": letter.reason,
            "error": letter.error,
            "n_attempts": letter.n_attempts,
            "dead_at": letter.dead_at,
            "topic": letter.topic,
            "type": message and message.type,
            "headers": message and message.headers,
            "payload": message and message.payload,
            "raw": base64.b64encode(letter.raw).decode() if message is None else None,
        }
    )


@dead_letters.command()
@_queue
@_ids
@_all
def redrive(queue: str, letter_ids: tuple[str, ...], everything: bool) -> None:
    """Send letters to their queue again, their attempts counted from the start."""
    _change(queue, letter_ids, everything, "redriven", lambda letters: (letters.redrive, letters.redrive_all))


@dead_letters.command()
@_queue
@_ids
@_all
def discard(queue: str, letter_ids: tuple[str, ...], everything: bool) -> None:
    """Remove letters for good."""
    _change(
        queue, letter_ids, everything, "discarded", lambda letters: (letters.discard, letters.discard_all)
    )


def _change(
    queue: str,
    letter_ids: tuple[str, ...],
    everything: bool,
    done: str,
    ways: Callable[
        [DeadLetters], tuple[Callable[[str, str], Awaitable[None]], Callable[[str], Awaitable[int]]]
    ],
) -> None:
    if everything == bool(letter_ids):
        raise click.UsageError("give the ids of letters, or --all")

    async def change(manager: QueueManager) -> int:
        one, all_of = ways(manager.dead_letters)
        if everything:
            return await all_of(queue)
        for letter_id in letter_ids:
            await one(queue, letter_id)
        return len(letter_ids)

    click.echo(f"{_with_manager(change)} {done}")


def _with_manager(action: Callable[[QueueManager], Awaitable[T]]) -> T:
    from pynomaly_tasks.bootstrap import build_messaging

    async def run() -> T:
        async with build_messaging(load_settings()) as manager:
            return await action(manager)

    return asyncio.run(run())


async def _queue_rows(manager: QueueManager) -> list[tuple[str, ...]]:
    rows = []
    for name, options in (await manager.list_queues()).items():
        found = await manager.statistics(name)
        m = found.measure
        counts = (
            m.depth,
            m.in_flight,
            m.delayed,
            None if m.oldest_age_s is None else round(m.oldest_age_s),
            m.acknowledged,
            m.failed,
            found.n_dead_letters,
        )
        rows.append((name, options.kind.value, *("-" if n is None else str(n) for n in counts)))
    return rows


async def _work(
    queues: list[str],
    register: Callable[[Any], Any],
    concurrency: int | None,
    batch_size: int | None,
    once: bool,
) -> None:
    from pynomaly_tasks.bootstrap import build_messaging
    from pynomaly_tasks.messaging import Worker
    from pynomaly_tasks.telemetry import configure_logging

    settings = load_settings()
    configure_logging(level=settings.log.level, format=settings.log.format)
    async with build_messaging(settings) as manager, measured(settings, manager) as metrics:
        worker = Worker(
            manager,
            queues,
            concurrency=concurrency or settings.messaging.concurrency,
            batch_size=batch_size or settings.messaging.batch_size,
            handler_timeout_s=settings.messaging.handler_timeout_s,
            observe=metrics.observe,
        )
        metrics.watch(worker)
        register(worker)
        if once:
            click.echo(f"{await worker.run_once()} tries")
        else:
            click.echo(f"takes from {', '.join(queues)}")
            await worker.run()
        found = worker.statistics
        click.echo(
            f"done {found.n_done}, failed {found.n_failed}, rejected {found.n_rejected}, lost {found.n_lost}"
        )


def _find(name: str) -> Callable[[Any], Any]:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, ValueError) as error:
        raise InvalidSettings.of("--handlers", f"{module!r:.80} cannot be imported: {error}") from error
    except AttributeError:
        raise InvalidSettings.of(
            "--handlers", f"the module {module} has no {function!r:.60}; write module:function"
        ) from None
    if not callable(found):
        raise InvalidSettings.of("--handlers", f"{name} cannot be called")
    return found  # type: ignore[no-any-return]  # whatever it is, it can be called
