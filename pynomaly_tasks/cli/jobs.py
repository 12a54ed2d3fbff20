"""``pynomaly jobs``: submit, look at, wait for, cancel and replay jobs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import rich_click as click

from pynomaly_tasks.cli.connection import connect
from pynomaly_tasks.cli.filters import edited, filtered, job_filter, report_bulk, require_one_choice
from pynomaly_tasks.cli.progress import follow, stands
from pynomaly_tasks.cli.terminal import change_each, console, print_json, print_table
from pynomaly_tasks.cli.values import named_values, request_object
from pynomaly_tasks.core.audit_events import user_at
from pynomaly_tasks.core.job import FINAL_STATES, Job, JobState
from pynomaly_tasks.errors import Conflict, JobAlreadyFinal

_OPEN = [state for state in JobState if not state.is_final]
_REPLAYED = [JobState.FAILED, JobState.CANCELLED, JobState.DEAD]


@click.group()
def jobs() -> None:
    """Submit jobs, look at them, wait, cancel, replay."""


@jobs.command()
@click.argument("kind")
@click.argument("request", default="{}")
@click.option(
    "--option",
    "-o",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="Such as priority=9, owner=me, delay_s=60 or tags='[\"nightly\"]'. A wrong name is told the right ones.",
)
@click.option("--wait", "-w", is_flag=True, help="Show the progress until the job has ended.")
def submit(kind: str, request: str, options: tuple[str, ...], wait: bool) -> None:
    """Submit a job of KIND with REQUEST, a JSON object (- reads it from standard input); print its id."""
    from pynomaly_tasks.jobs.submission import Submission

    platform = connect()
    submission = Submission(
        kind=kind, request=request_object(request), options=named_values("--option", options)
    )
    job = platform.submitter.submit(submission)
    click.echo(job.id)
    if wait:
        _wait([job.id])


@jobs.command("list")
@filtered()
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000))
def list_(limit: int, **which: Any) -> None:
    """List jobs, newest first."""
    found = connect().store.select_jobs(job_filter(**which), limit=limit)
    print_table(
        ("job", "kind", "state", "attempt", "progress", "created", "error"), [_row(job) for job in found]
    )


@jobs.command()
@click.argument("job_id")
def show(job_id: str) -> None:
    """Print a job, its attempts and its whole result as JSON, with the addresses of its files."""
    platform = connect()
    job = platform.store.get_job(job_id)
    answer: dict[str, Any] = {"job": job, "attempts": platform.store.list_attempts(job_id)}
    if job.state is JobState.SUCCEEDED:
        result = answer["result"] = platform.store.get_result(job_id)
        answer["files"] = {name: platform.artifacts.address(key) for name, key in result.artifacts.items()}
    print_json(answer)


@jobs.command()
@click.argument("job_ids", nargs=-1, required=True)
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), help="Give up after this many seconds.")
def wait(job_ids: tuple[str, ...], timeout_s: float | None) -> None:
    """Show the progress of jobs until all have ended; exit code 1 unless all succeeded."""
    _wait(job_ids, timeout_s)


@jobs.command()
@click.argument("job_ids", nargs=-1)
@filtered(_OPEN)
@click.option("--reason", default="", help="Kept with the job.")
@click.option("--dry-run", is_flag=True, help="Only say what would be cancelled.")
def cancel(job_ids: tuple[str, ...], reason: str, dry_run: bool, **which: Any) -> None:
    """Cancel jobs by id, or every open job that passes the filter."""
    require_one_choice(job_ids, which)
    platform = connect()
    actor = user_at("cli")

    def cancel_one(job_id: str) -> str:
        if not dry_run:
            return f"{job_id} {stands(platform.cancel(job_id, reason, actor=actor))}"
        job = platform.store.get_job(job_id)
        if job.state.is_final:
            raise JobAlreadyFinal(f"job {job_id} is {job.state} already")
        return f"{job_id} is {job.state} and would be cancelled"

    if job_ids:
        change_each(job_ids, cancel_one)
    else:
        bulk = platform.controls.cancel_where(
            job_filter(**which), reason=reason, dry_run=dry_run, actor=actor
        )
        report_bulk(bulk, dry_run=dry_run)


@jobs.command()
@click.argument("job_ids", nargs=-1)
@filtered(_REPLAYED)
@edited
@click.option("--dry-run", is_flag=True, help="Only say what would be replayed.")
def replay(job_ids: tuple[str, ...], edits: tuple[str, ...], dry_run: bool, **which: Any) -> None:
    """Run ended jobs again as new ones: by id, or every failed, cancelled or dead one that passes the filter.

    Prints the ids of the new jobs.
    """
    require_one_choice(job_ids, which)
    changes = named_values("--edit", edits)
    platform = connect()
    actor = user_at("cli")

    def replay_one(job_id: str) -> str:
        if not dry_run:
            return platform.replay(job_id, changes, actor=actor).id
        job = platform.store.get_job(job_id)
        if job.state not in FINAL_STATES:
            raise Conflict(f"job {job_id} is {job.state}; only an ended job can be replayed, cancel it first")
        return f"{job_id} is {job.state} and would be replayed"

    if job_ids:
        change_each(job_ids, replay_one)
    else:
        bulk = platform.controls.replay_where(
            job_filter(**which), edits=changes, dry_run=dry_run, actor=actor
        )
        report_bulk(bulk, dry_run=dry_run)


def _wait(job_ids: Sequence[str], timeout_s: float | None = None) -> None:
    # On a terminal bars on standard error, and the ends on standard output; else one line a change.
    is_live = sys.stderr.isatty()
    seen = follow(connect().store, job_ids, console(stderr=is_live), timeout_s=timeout_s)
    if is_live:
        for job in seen:
            click.echo(f"{job.id} {stands(job)}")
    if any(not job.state.is_final for job in seen):
        click.echo(f"pynomaly: not all jobs have ended after {timeout_s:g} s", err=True)
    if any(job.state is not JobState.SUCCEEDED for job in seen):
        sys.exit(1)


def _row(job: Job) -> tuple[str, ...]:
    progress = job.progress
    return (
        job.id,
        job.kind,
        job.state.value,
        str(job.attempt),
        "" if progress is None else f"{progress.current}/{progress.total} {progress.status}",
        f"{job.created_at:%Y-%m-%d %H:%M:%S}",
        "" if job.error is None else f"{job.error.type}: {job.error.message}",
    )
