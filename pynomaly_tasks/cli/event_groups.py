"""``pynomaly events``: the commands about consumer groups: run one, see how far each is, replay."""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from pynomaly_tasks.cli.connection import connect
from pynomaly_tasks.cli.terminal import one_line, print_table
from pynomaly_tasks.core.ids import new_id
from pynomaly_tasks.errors import InvalidInput
from pynomaly_tasks.settings import current_settings
from pynomaly_tasks.telemetry import configure_logging

if TYPE_CHECKING:
    from pynomaly_tasks.bootstrap import Platform
    from pynomaly_tasks.consumers.groups import Group
    from pynomaly_tasks.events.replay import ReplayRange, ReplayReport

F = TypeVar("F", bound=Callable[..., Any])

_SHOWN_FAILURES = 20
_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_AGO = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd])", re.ASCII)


class Since(click.ParamType[Any]):
    """``90s``, ``30m``, ``1h``, ``7d`` ago, or an instant such as 2026-11-22T12:00:00Z."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The instant."""
        if isinstance(value, datetime):
            return value
        if ago := _AGO.fullmatch(value):
            return datetime.now(UTC) - timedelta(seconds=float(ago[1]) * _UNITS_S[ago[2]])
        try:
            instant = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is neither like 90s, 30m, 1h or 7d nor like 2026-11-22T12:00:00Z", param, ctx
            )
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


class Offset(click.ParamType[Any]):
    """``TOPIC:PARTITION:NUMBER``."""

    name = "TOPIC:PARTITION:N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int, int]:
        """Topic, partition, offset."""
        if isinstance(value, tuple):
            return value
        topic, *numbers = value.split(":")
        if not topic or len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
            self.fail(f"{value!r} is not like job_events:0:1234", param, ctx)
        return topic, int(numbers[0]), int(numbers[1])


def imported(command: F) -> F:
    """Give a command --import, for modules that register handlers and types of events."""
    return click.option(
        "--import", "modules", multiple=True, metavar="MODULE", callback=_import_all, expose_value=False,
        help="Import it first: it registers handlers or types of events.",
    )(command)  # fmt: skip


def _import_all(ctx: click.Context, param: click.Parameter, modules: Sequence[str]) -> None:
    # As python -m does: what lies where the command is given can be imported.
    if modules and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # the module is there; what it imports is not
            raise click.BadParameter(f"there is no module {module}", ctx, param) from None


@click.command()
@click.option("--group", "groups", multiple=True, required=True, help="May be given more than once.")
@imported
def consume(groups: tuple[str, ...]) -> None:
    """Run consumer groups in this process until Ctrl-C or SIGTERM: ours, or handlers of --import."""
    platform = connect()
    settings = current_settings()
    configure_logging(level=settings.log.level, format=settings.log.format)
    from pynomaly_tasks.consumers.run import serve_groups

    serve_groups(platform, *groups)


@click.command()
@click.option("--group", "names", multiple=True, help="Unset: ours, and those of --import.")
@imported
def lag(names: tuple[str, ...]) -> None:
    """Show how many events each group has still to apply."""
    from pynomaly_tasks.consumers.groups import OURS
    from pynomaly_tasks.events.handlers import HANDLERS

    platform = connect()
    groups = [_group(platform, name) for name in names or (*OURS, *HANDLERS.groups())]
    rows = asyncio.run(_lag(platform, groups))
    print_table(("group", "topic", "partition", "lag"), rows)


async def _lag(platform: Platform, groups: Sequence[Group]) -> list[tuple[str, ...]]:
    reader = platform.event_reader()
    return [
        (group.name, partition.topic, str(partition.number), str(n))
        for group in groups
        for partition, n in sorted((await reader.lag(group.name, group.topics)).items())
    ]


@click.command()
@click.option("--group", required=True, help="Whose handlers are called.")
@click.option("--since", type=Since(), help="1h, 7d, or an instant. Events from then on.")
@click.option("--until", type=Since(), help="Unset: now.")
@click.option("--topic", "topics", multiple=True, help="Only of it; may be given more than once.")
@click.option("--offset", "offsets", type=Offset(), multiple=True, help="From there on, in place of --since.")
@click.option("--type", "types", multiple=True, help="Only these, such as job.failed or job.*.")
@click.option("--id", "replay_id", help="Of a replay that was broken off: what it applied is left out.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@imported
def replay(
    group: str,
    since: datetime | None,
    until: datetime | None,
    topics: tuple[str, ...],
    offsets: tuple[tuple[str, int, int], ...],
    types: tuple[str, ...],
    replay_id: str | None,
    dry_run: bool,
) -> None:
    """Apply past events to a group once more, also those that it has applied.

    The live members of the group go on beside it, and their offsets stay as they are.
    """
    if (since is None) == (not offsets):
        raise click.UsageError("Say from where: either --since, or --offset.")
    if offsets and topics:
        raise click.UsageError("--offset names its topic; leave --topic out.")
    platform = connect()
    found = _group(platform, group)
    if unread := sorted({*topics, *(topic for topic, _, _ in offsets)} - set(found.topics)):
        raise InvalidInput.of(
            "topic",
            f"the group {group} does not read {', '.join(unread)}; it reads {', '.join(found.topics)}",
        )
    from pynomaly_tasks.events.replay import ReplayRange

    until = until or datetime.now(UTC)
    ranges = [ReplayRange(topic=topic, since=since, until=until) for topic in topics or found.topics]
    if offsets:
        ranges = [
            ReplayRange(topic=topic, until=until, partition=partition, from_offset=number)
            for topic, partition, number in offsets
        ]
    replay_id = replay_id or f"replay-{new_id()}"
    if not dry_run:
        click.echo(f"replay {replay_id}; broken off, it goes on with --id {replay_id}", err=True)
    report = asyncio.run(_replay(platform, found, ranges, replay_id, types or ("*",), dry_run))
    _tell(report, dry_run)


async def _replay(
    platform: Platform,
    group: Group,
    ranges: Sequence[ReplayRange],
    replay_id: str,
    patterns: Sequence[str],
    dry_run: bool,
) -> ReplayReport:
    from pynomaly_tasks.consumers.run import decoder
    from pynomaly_tasks.events.replay import replay as replay_ranges

    try:
        return await replay_ranges(
            platform.event_reader(), ranges, group.effect, decoder(platform),
            replay_id=replay_id, patterns=patterns, dry_run=dry_run,
        )  # fmt: skip
    finally:
        await group.effect.close()


def _tell(report: ReplayReport, dry_run: bool) -> None:
    done = "would be applied" if dry_run else "matched"
    click.echo(f"{report.n_read} read, {report.n_matching} {done}, {report.n_applied} applied", err=True)
    for reason, n in sorted(Counter(error.reason for _, error in report.bad).items()):
        click.echo(f"{n} are no events: {reason}", err=True)
    for event, error in report.failed[:_SHOWN_FAILURES]:
        click.echo(
            f"pynomaly: {event.id} ({event.type}): {one_line(f'{type(error).__name__}: {error}')}", err=True
        )
    if report.failed:
        click.echo(f"pynomaly: {len(report.failed)} could not be applied", err=True)
        sys.exit(1)


def _group(platform: Platform, name: str) -> Group:
    from pynomaly_tasks.consumers.groups import build_group

    return build_group(platform, name)
