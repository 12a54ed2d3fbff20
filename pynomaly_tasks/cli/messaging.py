"""``pynomaly messaging``: the message queues, their workers, and what each broker can do."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import Any

import rich_click as click

from pynomaly_tasks.cli.terminal import print_table
from pynomaly_tasks.errors import InvalidSettings
from pynomaly_tasks.settings import load_settings


@click.group()
def messaging() -> None:
    """Message queues of your own, beside the jobs."""


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
    print_table(columns, asyncio.run(_queue_rows()))


@messaging.command()
@click.option("--queues", "names", required=True, metavar="A,B", help="Queues to take from.")
@click.option(
    "--handlers", required=True, metavar="MODULE:FUNCTION",
    help="A function of yours; it is given the worker, and adds its handlers to it.",
)  # fmt: skip
@click.option("--concurrency", type=click.IntRange(1, 10_000), help="Handlers at once. Default: the setting.")
@click.option(
    "--batch-size", type=click.IntRange(1, 1_000), help="Messages of one fetch. Default: the setting."
)
@click.option("--once", is_flag=True, help="Handle what waits now, and end: for cron.")
def worker(names: str, handlers: str, concurrency: int | None, batch_size: int | None, once: bool) -> None:
    """Handle messages until SIGTERM or Ctrl-C; then finish what is in hand, and take nothing more."""
    register = _find(handlers)
    queues = [name.strip() for name in names.split(",") if name.strip()]
    asyncio.run(_work(queues, register, concurrency, batch_size, once))


async def _queue_rows() -> list[tuple[str, ...]]:
    from pynomaly_tasks.bootstrap import build_messaging

    rows = []
    async with build_messaging(load_settings()) as manager:
        for name, options in (await manager.list_queues()).items():
            found = await manager.statistics(name)
            m = found.measure
            counts = (
                m.depth,
                m.in_flight,
                m.delayed,
                round(m.oldest_age_s),
                m.acknowledged,
                m.failed,
                found.n_dead_letters,
            )
            rows.append((name, options.kind.value, *map(str, counts)))
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
    async with build_messaging(settings) as manager:
        worker = Worker(
            manager,
            queues,
            concurrency=concurrency or settings.messaging.concurrency,
            batch_size=batch_size or settings.messaging.batch_size,
            handler_timeout_s=settings.messaging.handler_timeout_s,
        )
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
