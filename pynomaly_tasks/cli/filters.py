"""The options that say which jobs are meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import rich_click as click

from pynomaly_tasks.core.job import DeadReason, JobState

F = TypeVar("F", bound=Callable[..., Any])


def filtered(command: F) -> F:
    """Give a command --state, --kind, --tag, --owner and --dead-reason."""
    for option in (
        click.option("--dead-reason", type=click.Choice([reason.value for reason in DeadReason])),
        click.option("--owner"),
        click.option("--tag"),
        click.option("--kind"),
        click.option(
            "--state", "states", multiple=True, type=click.Choice([state.value for state in JobState])
        ),
    ):
        command = option(command)
    return command


def job_filter(
    states: tuple[str, ...], kind: str | None, tag: str | None, owner: str | None, dead_reason: str | None
) -> Any:
    """The store's filter for these options."""
    from pynomaly_tasks.store.reads import JobFilter

    return JobFilter(
        states=[JobState(state) for state in states] or None,
        kind=kind,
        tag=tag,
        owner=owner,
        dead_reason=None if dead_reason is None else DeadReason(dead_reason),
    )
