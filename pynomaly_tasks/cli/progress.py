"""Following jobs on a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pynomaly_tasks.core.job import Job, JobState

_LOOK_EVERY_S = 0.2
_COLOURS = {
    JobState.SUCCEEDED: "green",
    JobState.RUNNING: "cyan",
    JobState.WAITING: "yellow",
    JobState.QUEUED: "yellow",
}


class Jobs(Protocol):
    """Where the jobs are."""

    def get_job(self, job_id: str) -> Job:
        """Raises NotFound."""


def follow(jobs: Jobs, job_ids: Sequence[str], console: Console, labels: Sequence[str] = ()) -> list[Job]:
    """Show one bar a job until each has ended; the jobs as they ended, in the given order."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[status]}"),
    )
    ended: dict[str, Job] = {}
    with Progress(*columns, console=console) as shown:
        bars = {
            job_id: shown.add_task(label, total=None, status="")
            for job_id, label in zip(job_ids, labels or job_ids, strict=True)
        }
        while len(ended) < len(bars):
            for job_id in bars.keys() - ended.keys():
                job = jobs.get_job(job_id)
                _draw(shown, bars[job_id], job)
                if job.state.is_final:
                    ended[job_id] = job
            time.sleep(_LOOK_EVERY_S)
    return [ended[job_id] for job_id in job_ids]


def _draw(shown: Progress, bar: object, job: Job) -> None:
    colour = _COLOURS.get(job.state, "red")
    status = f"[{colour}]{job.state.value}[/]"
    if job.attempt > 1:
        status += f", attempt {job.attempt}"
    if job.state is JobState.RUNNING and job.progress is not None:
        status += f": {job.progress.status}"
    total = job.progress.total if job.progress else None
    current = job.progress.current if job.progress else 0
    if job.state is JobState.SUCCEEDED:
        total = current = total or 1
    shown.update(bar, total=total, completed=current, status=status)  # type: ignore[arg-type]  # rich's TaskID is an int
