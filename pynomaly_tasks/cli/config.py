"""``pynomaly config``: what the settings are, and whether they work."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import orjson
import rich_click as click
from pydantic import BaseModel, SecretStr

from pynomaly_tasks.cli.connection import connect
from pynomaly_tasks.core.redact import mask_url
from pynomaly_tasks.errors import InvalidSettings, PynomalyError
from pynomaly_tasks.settings import Settings, load_settings

if TYPE_CHECKING:
    from pynomaly_tasks.bootstrap import Platform

_MASKED = "***"


@click.group()
def config() -> None:
    """The settings of this environment."""


@config.command()
def show() -> None:
    """Print every setting as its environment variable, secrets masked."""
    for line in settings_lines(load_settings()):
        click.echo(line)


@config.command()
def check() -> None:
    """Check the settings and reach for every neighbour they name; exit code 1 when one is wrong."""
    platform = connect()
    click.echo("settings: ok")
    n_wrong = 0
    for name, reach in _checks(platform):
        try:
            reach()
        except (PynomalyError, OSError) as error:
            n_wrong += 1
            click.echo(f"{name}: {error}", err=True)
        else:
            click.echo(f"{name}: ok")
    if n_wrong:
        sys.exit(1)


def settings_lines(settings: Settings) -> Iterator[str]:
    """``NAME=value`` for each setting, and a comment for each that has no value. No secret is in them."""
    for name, value in _flat(settings, "PYNOMALY_"):
        yield f"# {name} is not set" if value is None else f"{name}={_shown(value)}"


def _checks(platform: Platform) -> Iterator[tuple[str, Callable[[], object]]]:
    from pynomaly_tasks.senders.registry import build_channels

    settings = platform.settings
    yield "store", lambda: platform.store.count_by_state()
    yield "broker (redis.url, redis.broker_url)", lambda: platform.queue.n_ready("default")
    yield "results (redis.url, redis.results_url)", lambda: platform.queue.check_results()
    yield "streams (redis.url, redis.streams_url)", lambda: platform.updates.check()
    yield "message queues (redis.url, messaging.url)", lambda: asyncio.run(_reach_messaging(settings))
    yield (
        f"events (events.backend, {settings.events.backend})",
        lambda: asyncio.run(platform.event_log.check()),
    )
    yield "uploads (data.directory)", lambda: platform.datasets
    for root in settings.data.roots:
        yield f"datasets in {root} (data.roots)", partial(_check_root, root)
    yield "artifacts (data.artifacts_url)", partial(_check_artifacts, platform)
    channels = build_channels(settings.notifications.channels, settings.notifications.timeout_s)
    for name, channel in channels.by_name.items():
        yield f"channel {name} (notifications.channels)", channel.check


async def _reach_messaging(settings: Settings) -> None:
    from pynomaly_tasks.bootstrap import build_messaging

    async with build_messaging(settings) as manager:
        await manager.health()


def _check_root(root: Path) -> None:
    if not root.is_dir():
        raise InvalidSettings.of("data.roots", f"{root} is not a directory that can be read")
    next(root.iterdir(), None)


def _check_artifacts(platform: Platform) -> None:
    """Write a file, read it, delete it: what a job's result needs."""
    name = f"config-check-{uuid.uuid4()}"
    with TemporaryDirectory() as directory:
        file = Path(directory) / "check.txt"
        file.write_text("check")
        try:
            platform.artifacts.read_bytes(platform.artifacts.put(name, 1, file.name, file))
        finally:
            platform.artifacts.delete_job(name)


def _flat(section: BaseModel, prefix: str) -> Iterator[tuple[str, Any]]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _flat(value, f"{prefix}{name.upper()}__")
        else:
            yield f"{prefix}{name.upper()}", value


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return orjson.dumps(dict.fromkeys(value, _MASKED)).decode()
    if isinstance(value, SecretStr):
        text = value.get_secret_value()
        return mask_url(text) if "://" in text else _MASKED
    if isinstance(value, tuple):
        return orjson.dumps([str(each) for each in value]).decode()
    if isinstance(value, bool):
        return str(value).lower()
    return mask_url(str(value))
