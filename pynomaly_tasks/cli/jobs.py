"""``pynomaly jobs``: submit, look at, wait for, cancel and replay jobs."""

from __future__ import annotations

from typing import Any

import orjson
import rich_click as click
from rich.table import Table

from pynomaly_tasks.cli.filters import filtered, job_filter
from pynomaly_tasks.cli.progress import follow
from pynomaly_tasks.cli.terminal import console
from pynomaly_tasks.core.job import Job, JobState
from pynomaly_tasks.errors import InvalidRequest


@click.group()
def jobs() -> None:
    """Submit jobs, look at them, wait, cancel, replay."""


@jobs.command()
@click.argument("kind")
@click.argument("request", default="{}")
@click.option(
    "--option", "-o", "options", multiple=True, help="NAME=JSON, such as priority=9; see JobOptions."
)
@click.option("--wait", is_flag=True, help="Show the progress until the job has ended.")
def submit(kind: str, request: str, options: tuple[str, ...], wait: bool) -> None:
    """Submit a job of KIND with REQUEST, a JSON object; print its id."""
    platform = _platform()
    named = {name: value or "true" for name, _, value in (option.partition("=") for option in options)}
    job = platform.submit(
        kind, _json("request", request), **{name: _json(name, value) for name, value in named.items()}
    )
    click.echo(job.id)
    if wait:
        _wait([job.id])


@jobs.command("list")
@filtered
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
def list_(limit: int, **which: Any) -> None:
    """List jobs, newest first."""
    table = Table("job", "kind", "state", "attempt", "progress", "created", "error", box=None, pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
    for job in _platform().store.select_jobs(job_filter(**which), limit=limit):
        table.add_row(
            job.id,
            job.kind,
            job.state.value,
            str(job.attempt),
            _progress(job),
            f"{job.created_at:%Y-%m-%d %H:%M:%S}",
            "" if job.error is None else f"{job.error.type}: {job.error.message}"[:80],
        )
    console().print(table)


@jobs.command()
@click.argument("job_id")
def show(job_id: str) -> None:
    """Print a job, its attempts and its result as JSON."""
    store = _platform().store
    job = store.get_job(job_id)
    answer: dict[str, Any] = {"job": job, "attempts": store.list_attempts(job_id)}
    if job.state is JobState.SUCCEEDED:
        answer["artifacts"] = store.get_result(job_id).artifacts
    click.echo(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode())


@jobs.command()
@click.argument("job_ids", nargs=-1, required=True)
def wait(job_ids: tuple[str, ...]) -> None:
    """Show the progress of jobs until all have ended; exit code 1 unless all succeeded."""
    _wait(job_ids)


@jobs.command()
@click.argument("job_ids", nargs=-1)
@filtered
@click.option("--reason", default="", help="Kept with the job.")
@click.option("--dry-run", is_flag=True, help="Only say how many jobs the filter matches.")
def cancel(job_ids: tuple[str, ...], reason: str, dry_run: bool, **which: Any) -> None:
    """Cancel jobs by id, or every open job that passes the filter."""
    controls = _platform().controls
    for job_id in job_ids:
        click.echo(f"{job_id} {_stands(controls.cancel(job_id, reason))}")
    if not job_ids:
        _report(controls.cancel_where(_some_filter(which), reason=reason, dry_run=dry_run), dry_run)


@jobs.command()
@click.argument("job_ids", nargs=-1)
@filtered
@click.option(
    "--edit", "-e", "edits", multiple=True, help="FIELD=JSON, replaces a field; FIELD=null removes it."
)
@click.option("--dry-run", is_flag=True, help="Only say how many jobs the filter matches.")
def replay(job_ids: tuple[str, ...], edits: tuple[str, ...], dry_run: bool, **which: Any) -> None:
    """Run ended jobs again as new ones: by id, or every failed, cancelled or dead one that passes the filter."""
    controls = _platform().controls
    changes = {name: _json(name, value) for name, _, value in (edit.partition("=") for edit in edits)}
    for job_id in job_ids:
        click.echo(controls.replay(job_id, changes).id)
    if not job_ids:
        _report(controls.replay_where(_some_filter(which), edits=changes, dry_run=dry_run), dry_run)


def _platform() -> Any:
    from pynomaly_tasks.bootstrap import current_platform

    return current_platform()


def _wait(job_ids: Any) -> None:
    ended = follow(_platform().store, job_ids, console(stderr=True))
    for job in ended:
        click.echo(f"{job.id} {_stands(job)}")
    if any(job.state is not JobState.SUCCEEDED for job in ended):
        raise SystemExit(1)


def _stands(job: Job) -> str:
    if job.state is JobState.RUNNING and job.cancel_requested_at is not None:
        return "is asked to stop"
    return (
        job.state.value if job.error is None else f"{job.state.value}: {job.error.type}: {job.error.message}"
    )


def _progress(job: Job) -> str:
    return (
        "" if job.progress is None else f"{job.progress.current}/{job.progress.total} {job.progress.status}"
    )


def _some_filter(which: dict[str, Any]) -> Any:
    if not any(which.values()):
        raise InvalidRequest.of("job_ids", "name jobs, or give a filter (--state, --kind, --tag, --owner)")
    return job_filter(**which)


def _report(bulk: Any, dry_run: bool) -> None:
    click.echo(f"{bulk.n_matched} jobs match" + ("; nothing was changed" if dry_run else ""))
    for job_id in bulk.changed:
        click.echo(job_id)
    for job_id, reason in bulk.refused.items():
        click.echo(f"{job_id} refused: {reason}", err=True)


def _json(name: str, text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest.of(name, f"is not JSON: {error}; quote strings, as in '\"text\"'") from None
