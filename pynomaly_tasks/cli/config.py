"""``pynomaly config``: what the settings are, and whether they work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import rich_click as click
from pydantic import BaseModel, SecretStr

from pynomaly_tasks.core.redact import mask_url
from pynomaly_tasks.errors import PynomalyError, Unavailable
from pynomaly_tasks.settings import load_settings


@click.group()
def config() -> None:
    """The settings of this environment."""


@config.command()
def show() -> None:
    """Print every setting as its environment variable, secrets masked."""
    for name, value in _flat(load_settings(), "PYNOMALY_"):
        click.echo(f"{name}={value}")


@config.command()
def check() -> None:
    """Check the settings and reach for every neighbour they name; exit code 1 when one is wrong."""
    from pynomaly_tasks.bootstrap import build_platform

    settings = load_settings()
    click.echo("settings: ok")
    platform = build_platform(settings)
    checks: dict[str, Callable[[], object]] = {
        "store": lambda: platform.store.count_by_state(),
        "broker": lambda: platform.queue.n_ready("default"),
        "datasets": lambda: platform.datasets,
        "artifacts": lambda: platform.artifacts,
    }
    failed = False
    for name, reach in checks.items():
        try:
            reach()
        except PynomalyError as error:
            failed = True
            click.echo(f"{name}: {error}", err=True)
        else:
            click.echo(f"{name}: ok")
    if failed:
        raise Unavailable("not every neighbour answers; see above")


def _flat(section: BaseModel, prefix: str) -> Iterator[tuple[str, Any]]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        key = f"{prefix}{name.upper()}"
        if isinstance(value, BaseModel):
            yield from _flat(value, f"{key}__")
        elif value is None:
            continue
        elif isinstance(value, dict):
            yield key, "{" + ", ".join(f'"{each}": "***"' for each in value) + "}"
        elif isinstance(value, SecretStr):
            text = value.get_secret_value()
            yield key, mask_url(text) if "://" in text else "***"
        elif isinstance(value, tuple):
            yield key, "[" + ", ".join(f'"{each}"' for each in value) + "]"
        else:
            yield key, value
