"""Following jobs: bars on a terminal, one line a change elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pynomaly_tasks.cli.terminal import one_line
from pynomaly_tasks.core.job import Job, JobState

_LOOK_EVERY_S = 0.1
_COLOURS = {
    JobState.SUCCEEDED: "green",
    JobState.RUNNING: "cyan",
    JobState.WAITING: "yellow",
    JobState.QUEUED: "yellow",
}


class Jobs(Protocol):
    """Where the jobs are."""

    def find_job(self, job_id: str) -> Job | None:
        """The job, or None."""

    def get_job(self, job_id: str) -> Job:
        """Raises NotFound."""


def follow(
    jobs: Jobs,
    job_ids: Sequence[str],
    console: Console,
    *,
    labels: Sequence[str] = (),
    timeout_s: float | None = None,
    as_one: bool = False,
) -> list[Job]:
    """Show the jobs until each has ended, or the time is up; the jobs as last seen, in the given order.

    ``as_one``: they are steps of one piece of work. A step that is not there yet is waited for, and the
    first that ends without success ends the waiting. Otherwise raises NotFound for an unknown id.
    """
    named = dict(zip(job_ids, labels or job_ids, strict=True))
    if not as_one:
        for job_id in named:
            jobs.get_job(job_id)
    end = math.inf if timeout_s is None else time.monotonic() + timeout_s
    seen: dict[str, Job] = {}
    with _Bars(console, named) if console.is_terminal else _Lines(console, named) as shown:
        while True:
            for job_id in named:
                if job_id in seen and seen[job_id].state.is_final:
                    continue
                if (job := jobs.find_job(job_id)) is not None:
                    seen[job_id] = job
                    shown.draw(job)
            ended = [job for job in seen.values() if job.state.is_final]
            failed = [job for job in ended if job.state is not JobState.SUCCEEDED]
            if len(ended) == len(named) or (as_one and failed) or time.monotonic() >= end:
                return [seen[job_id] for job_id in named if job_id in seen]
            time.sleep(_LOOK_EVERY_S)


def stands(job: Job) -> str:
    """Where the job stands, in one line: ``failed: InvalidDataset: has no rows``."""
    if job.state is JobState.RUNNING and job.cancel_requested_at is not None:
        return "is asked to stop"
    if job.error is None:
        return job.state.value
    return one_line(f"{job.state.value}: {job.error.type}: {job.error.message}")


class _Bars:
    """One live bar a job."""

    def __init__(self, console: Console, names: Mapping[str, str]) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
        )
        self._bars: dict[str, TaskID] = {
            job_id: self._progress.add_task(escape(one_line(name)), start=False, total=None, status="")
            for job_id, name in names.items()
        }

    def draw(self, job: Job) -> None:
        bar = self._bars[job.id]
        status = f"[{_COLOURS.get(job.state, 'red')}]{job.state.value}[/]"
        if job.attempt > 1:
            status += f", attempt {job.attempt}"
        if job.state is JobState.RUNNING and job.progress is not None:
            status += f": {escape(one_line(job.progress.status))}"
        total = job.progress.total if job.progress else None
        current = job.progress.current if job.progress else 0
        if job.state is JobState.SUCCEEDED:
            total = current = total or 1
        self._progress.start_task(bar)
        self._progress.update(bar, total=total, completed=current, status=status)
        if job.state.is_final:
            self._progress.stop_task(bar)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class _Lines:
    """One line whenever a job's state, attempt or step changes."""

    def __init__(self, console: Console, names: Mapping[str, str]) -> None:
        self._console = console
        self._names = names
        self._shown: dict[str, object] = {}

    def draw(self, job: Job) -> None:
        step = job.progress if job.state is JobState.RUNNING else None
        what = (job.state, job.attempt, step and step.status)
        if self._shown.get(job.id) == what:
            return
        self._shown[job.id] = what
        line = f"{self._names[job.id]} {stands(job)}"
        if job.attempt > 1:
            line += f", attempt {job.attempt}"
        if step is not None:
            line += f": {step.current}/{step.total} {step.status}"
        self._console.print(one_line(line), markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
