"""The options that say which jobs are meant, and how they are changed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from pynomaly_tasks.core.job import DeadReason, JobState

if TYPE_CHECKING:
    from pynomaly_tasks.jobs.controls import Bulk
    from pynomaly_tasks.store.reads import JobFilter

F = TypeVar("F", bound=Callable[..., Any])


edited = click.option(
    "--edit",
    "-e",
    "edits",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Replaces a field of the request; FIELD=null removes it.",
)


def filtered(states: Iterable[JobState] = tuple(JobState)) -> Callable[[F], F]:
    """Give a command --state (one of ``states``), --kind, --tag, --owner and --dead-reason."""
    options = (
        click.option("--dead-reason", type=click.Choice([reason.value for reason in DeadReason])),
        click.option("--owner"),
        click.option("--tag"),
        click.option("--kind"),
        click.option(
            "--state",
            "states",
            multiple=True,
            type=click.Choice([state.value for state in states]),
            help="May be given more than once.",
        ),
    )

    def decorate(command: F) -> F:
        for option in options:
            command = option(command)
        return command

    return decorate


def job_filter(
    states: tuple[str, ...], kind: str | None, tag: str | None, owner: str | None, dead_reason: str | None
) -> JobFilter:
    """The store's filter for these options."""
    from pynomaly_tasks.store.reads import JobFilter

    return JobFilter(
        states=[JobState(state) for state in states] or None,
        kind=kind,
        tag=tag,
        owner=owner,
        dead_reason=None if dead_reason is None else DeadReason(dead_reason),
    )


def require_one_choice(job_ids: tuple[str, ...], which: dict[str, Any]) -> None:
    """Raise UsageError unless jobs are named by id, or by a filter, and not by both."""
    if bool(job_ids) == any(which.values()):
        raise click.UsageError(
            "Name jobs by their ids, or by a filter (--state, --kind, --tag, --owner, --dead-reason): "
            + ("not by both." if job_ids else "neither was given.")
        )


def report_bulk(bulk: Bulk, *, dry_run: bool) -> None:
    """Print what a change by filter did; exit code 1 when any job refused it."""
    matched = "1 job matches" if bulk.n_matched == 1 else f"{bulk.n_matched} jobs match"
    click.echo(matched + ("; nothing was changed" if dry_run else ""), err=not dry_run)
    for job_id in bulk.changed:
        click.echo(job_id)
    for job_id, reason in bulk.refused.items():
        click.echo(f"pynomaly: {job_id} refused: {reason}", err=True)
    if bulk.refused:
        sys.exit(1)
