"""The platform's processes on one machine: started in order, watched, started again, ended in order."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Self

from pynomaly_tasks.embedded.child import Child
from pynomaly_tasks.errors import Unavailable

_POLL_S = 0.05
_FIRST_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 30.0
#: A process that ran this long before it ended starts again at the first backoff.
_STEADY_AFTER_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One process to run."""

    name: str  #: also of its log file, ``<name>.log``
    command: Sequence[str | Path]
    env: Mapping[str, str] | None = None  #: the whole environment; None: this process' own
    cwd: Path | None = None
    ready: str | None = None  #: regular expression; the process is ready once its output matches
    ready_timeout_s: float = 60.0
    stage: int = 0  #: the highest stage is ended first; all of one stage at the same time
    stop_timeout_s: float = 10.0  #: from SIGTERM to SIGKILL


@dataclass(slots=True)
class _Run:
    """A process of the group, through its restarts."""

    spec: ProcessSpec
    child: Child
    n_restarts: int = 0
    backoff_s: float = _FIRST_BACKOFF_S
    start_again_at: float | None = None  #: on the monotonic clock, while it is down


class ProcessGroup:
    """Runs processes, each in a process group of its own with a log file of its own.

    None outlives this process: not on a normal end, not on Ctrl-C, not on SIGKILL. With ``restart``,
    `watch` starts again what ended, after 0.5 s, 1 s, 2 s ... 30 s. A context manager that stops all.
    """

    def __init__(
        self,
        log_directory: Path,
        *,
        restart: bool = False,
        on_exit: Callable[[str, int], None] | None = None,
    ) -> None:
        """``on_exit`` is told the name and exit code (negative: by that signal) of what ended unasked."""
        self.log_directory = log_directory
        self._restart = restart
        self._on_exit = on_exit
        self._runs: dict[str, _Run] = {}

    def start(self, *specs: ProcessSpec) -> None:
        """Start them together, and wait until each is ready.

        Raises Unavailable with the end of its log when one ends, or is late.
        """
        for spec in specs:
            if spec.name in self._runs:
                raise ValueError(f"a process {spec.name} is in this group already")
            self._runs[spec.name] = _Run(spec=spec, child=self._spawn(spec))
        for spec in specs:
            if spec.ready is not None:
                self.wait_for_output(spec.name, spec.ready, spec.ready_timeout_s)

    def wait_for_output(self, name: str, pattern: str, timeout_s: float) -> re.Match[str]:
        """The first match in what the process wrote since it was started. Raises Unavailable."""
        child = self._runs[name].child
        end = time.monotonic() + timeout_s
        while True:
            running = child.is_running()  # asked first: what it wrote before its end still counts
            if found := re.search(pattern, child.output(), re.MULTILINE):
                return found
            if not running or time.monotonic() > end:
                state = "is not ready" if running else f"ended with {child.returncode}"
                raise Unavailable(
                    f"{name} {state} after {time.monotonic() - child.started_at:.1f} s; "
                    f"its log, {child.log}, ends:\n{child.log_tail()}"
                )
            time.sleep(_POLL_S)

    def pids(self) -> dict[str, int]:
        """Process id by name, of those that run."""
        return {name: run.child.pid for name, run in self._runs.items() if run.child.is_running()}

    def n_restarts(self, name: str) -> int:
        """How often the process was started again."""
        return self._runs[name].n_restarts

    def check(self) -> list[str]:
        """Look at every process once: the names of those that are down. Starts again what is due."""
        return [name for name, run in self._runs.items() if not self._check(run)]

    def watch(self, stop: Event, *, also: Callable[[], None] | None = None) -> None:
        """Until ``stop`` is set, keep the processes running. Returns early when one is down for good.

        ``also`` is called at each look, about 20 times a second: for what is not a process of this group.
        """
        while not stop.wait(_POLL_S):
            if self.check() and not self._restart:
                return
            if also is not None:
                also()

    def stop(self) -> None:
        """End all, stage by stage: SIGTERM, their time to finish, SIGKILL for the whole group."""
        stages = sorted({run.spec.stage for run in self._runs.values()}, reverse=True)
        try:
            for stage in stages:
                self._stop_stage([run for run in self._runs.values() if run.spec.stage == stage])
        finally:
            # A second Ctrl-C while we wait: no more patience, and still nothing left behind.
            for run in self._runs.values():
                run.child.kill()
            self._runs.clear()

    def __enter__(self) -> Self:
        """Nothing runs yet."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stopped."""
        self.stop()

    def _spawn(self, spec: ProcessSpec) -> Child:
        return Child(spec.command, log=self.log_directory / f"{spec.name}.log", env=spec.env, cwd=spec.cwd)

    def _check(self, run: _Run) -> bool:
        if run.child.is_running():
            return True
        now = time.monotonic()
        if run.start_again_at is None:
            code = run.child.kill()  # what the dead program left of its group
            if now - run.child.started_at >= _STEADY_AFTER_S:
                run.backoff_s = _FIRST_BACKOFF_S
            run.start_again_at = now + run.backoff_s
            run.backoff_s = min(2 * run.backoff_s, _LONGEST_BACKOFF_S)
            if self._on_exit is not None:
                self._on_exit(run.spec.name, code)
        if self._restart and now >= run.start_again_at:
            run.child = self._spawn(run.spec)
            run.n_restarts += 1
            run.start_again_at = None
            return True
        return False

    @staticmethod
    def _stop_stage(runs: Sequence[_Run]) -> None:
        for run in runs:
            # The program alone: a Celery worker ends its own children in order.
            run.child.signal_leader(signal.SIGCONT)
            run.child.signal_leader(signal.SIGTERM)
        started = time.monotonic()
        for run in runs:
            run.child.wait(max(0.0, started + run.spec.stop_timeout_s - time.monotonic()))
            run.child.kill()
