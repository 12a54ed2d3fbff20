"""``pynomaly messaging tasks``: work over the message queues, for those without Celery."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
import rich_click as click

from pynomaly_tasks.cli.messaging_metrics import measured
from pynomaly_tasks.cli.terminal import print_json, print_table
from pynomaly_tasks.errors import InvalidRequest, InvalidSettings
from pynomaly_tasks.settings import load_settings

if TYPE_CHECKING:
    from pynomaly_tasks.messaging.tasks import Task, Tasks

T = TypeVar("T")

_task_id = click.argument("task_id")
_handlers = click.option(
    "--handlers", metavar="MODULE:FUNCTION",
    help="A function of yours; it is given the Tasks, and adds its handlers to them.",
)  # fmt: skip


@click.group()
def tasks() -> None:
    """Tasks over the message queues: submit, watch, cancel, run."""


@tasks.command()
@click.argument("task_type", metavar="TYPE")
@click.argument("arguments", default="{}", metavar="[JSON]")
@click.option("--priority", type=int, default=0, help="0 to 255, higher first.")
@click.option("--delay", type=float, help="Seconds; not before.")
@click.option("--at", help="ISO 8601 with a time zone; not before.")
@click.option("--every", type=float, help="Seconds; run again and again, this long apart.")
@click.option("--runs", type=int, help="With --every: so often.")
@click.option("--after", multiple=True, metavar="ID", help="A task that must succeed first; repeatable.")
@click.option("--key", default="", help="The task that was submitted under this key is returned.")
@click.option("--time-limit", type=float, help="Seconds, of one try.")
@click.option("--even-without-handler", is_flag=True, help="Keep it until some process has a handler.")
@click.option("--wait", type=float, help="Seconds to wait for the result, which is then printed.")
def submit(
    task_type: str,
    arguments: str,
    priority: int,
    delay: float | None,
    at: str | None,
    every: float | None,
    runs: int | None,
    after: tuple[str, ...],
    key: str,
    time_limit: float | None,
    even_without_handler: bool,
    wait: float | None,
) -> None:
    """Submit a task; prints its id, or with --wait its result as JSON."""
    try:
        parsed = orjson.loads(arguments)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest.of("arguments", f"are no JSON: {error}") from None
    instant = None
    if at is not None:
        try:
            instant = datetime.fromisoformat(at)
        except ValueError as error:
            raise InvalidRequest.of("at", f"{error}; write 2026-12-24T18:00:00+00:00, say") from None

    async def act(found: Tasks) -> Any:
        task_id = await found.submit_task(
            task_type,
            parsed,
            priority=priority,
            delay_s=delay,
            at=instant,
            every_s=every,
            n_runs=runs,
            after=after,
            deduplication_key=key,
            time_limit_s=time_limit,
            even_without_handler=even_without_handler,
        )
        return task_id if wait is None else await found.get_result(task_id, wait_s=wait)

    answer = _with_tasks(act)
    if wait is None:
        click.echo(answer)
    else:
        print_json(answer)


@tasks.command()
@_task_id
def status(task_id: str) -> None:
    """Show a task with its result, as JSON."""

    async def act(found: Tasks) -> dict[str, Any]:
        from pynomaly_tasks.messaging.tasks import TaskState

        task = await found.get_task(task_id)
        shown = {name: getattr(task, name) for name in task.__dataclass_fields__}
        if task.state is TaskState.SUCCEEDED:
            shown["result"] = await found.get_result(task_id)
        return shown

    print_json(_with_tasks(act))


@tasks.command("list")
@click.option("--state", help="Only in this state.")
@click.option("--type", "task_type", help="Only of this type.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000))
def list_(state: str | None, task_type: str | None, limit: int) -> None:
    """List tasks, newest first."""

    async def act(found: Tasks) -> list[Task]:
        return await found.list_tasks(state=state, task_type=task_type, limit=limit)

    rows = [
        (task.id, task.type, task.state.value, str(task.attempt), task.created_at.isoformat(timespec="seconds"),
         _progress(task), task.error.message if task.error else "")
        for task in _with_tasks(act)
    ]  # fmt: skip
    print_table(("id", "type", "state", "attempt", "submitted", "progress", "error"), rows)


@tasks.command()
@_task_id
@click.option("--reason", default="", help="Kept with the task.")
def cancel(task_id: str, reason: str) -> None:
    """End a task: it never runs, or its run is interrupted. Tasks that follow it never run."""

    async def act(found: Tasks) -> bool:
        return await found.cancel_task(task_id, reason)

    click.echo("cancelled" if _with_tasks(act) else "it had ended; nothing was changed")


@tasks.command()
@_handlers
@click.option("--types", metavar="A,B", help="Types to take. Default: all that have a handler.")
@click.option("--concurrency", type=click.IntRange(1, 1_000), default=2, show_default=True, help="Tasks of one type at once.")  # fmt: skip
@click.option("--once", is_flag=True, help="Run what is due now, and end: for cron.")
def worker(handlers: str | None, types: str | None, concurrency: int, once: bool) -> None:
    """Run tasks until SIGTERM or Ctrl-C; then finish what runs. The platform's own types have handlers."""
    register = _find(handlers) if handlers else lambda found: None
    chosen = [each.strip() for each in types.split(",") if each.strip()] if types is not None else None
    asyncio.run(_work(register, chosen, concurrency, once))


async def _work(
    register: Callable[[Any], Any], types: list[str] | None, concurrency: int, once: bool
) -> None:
    from pynomaly_tasks.bootstrap import build_messaging, build_platform
    from pynomaly_tasks.hybrid.platform_tasks import build_tasks
    from pynomaly_tasks.messaging.tasks import TaskWorker
    from pynomaly_tasks.telemetry import configure_logging

    settings = load_settings()
    configure_logging(level=settings.log.level, format=settings.log.format)
    platform = build_platform(settings)
    try:
        async with build_messaging(settings) as manager:
            found = build_tasks(manager, platform)
            register(found)
            async with measured(settings, manager) as metrics:
                runs = TaskWorker(found, types=types, concurrency=concurrency, observe=metrics.observe)
                for each in runs.workers.values():
                    metrics.watch(each)
                if once:
                    click.echo(f"{await runs.run_once()} tries")
                else:
                    click.echo(f"takes {', '.join(runs.types)}")
                    await runs.run()
    finally:
        platform.close()


def _with_tasks(action: Callable[[Tasks], Awaitable[T]]) -> T:
    from pynomaly_tasks.bootstrap import build_messaging, build_platform
    from pynomaly_tasks.hybrid.platform_tasks import build_tasks

    async def run() -> T:
        settings = load_settings()
        platform = build_platform(settings)
        try:
            async with build_messaging(settings) as manager:
                return await action(build_tasks(manager, platform))
        finally:
            platform.close()

    return asyncio.run(run())


def _progress(task: Task) -> str:
    told = task.progress
    return f"{told.current:g}/{told.total:g} {told.status}" if told else ""


def _find(name: str) -> Callable[[Any], Any]:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, ValueError, AttributeError) as error:
        raise InvalidSettings.of(
            "--handlers", f"{name!r:.80} cannot be imported: {error}; write module:function"
        ) from error
    if not callable(found):
        raise InvalidSettings.of("--handlers", f"{name} cannot be called")
    return found  # type: ignore[no-any-return]  # whatever it is, it can be called
