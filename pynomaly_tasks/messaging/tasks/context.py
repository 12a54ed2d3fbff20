"""What a handler may do while its task runs."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from pynomaly_tasks.errors import Interrupted, InvalidRequest, JobCancelled, TimeLimitExceeded
from pynomaly_tasks.messaging.task_records import TaskRecord
from pynomaly_tasks.messaging.tasks.task import Request, TaskProgress

_MAX_STATUS_CHARACTERS = 200


class TaskContext:
    """One attempt of a task, as its handler sees it. Its methods may be called from any thread."""

    def __init__(self, record: TaskRecord, request: Request, fetch: Callable[[str], Any]) -> None:
        """Made by `TaskWorker`; ``fetch`` gets another task's result for a thread."""
        self.task_id = record.id
        self.type = record.type
        self.attempt = record.attempt  #: counts the starts, from 1
        self.n_runs = record.n_runs  #: that ended, of a task that repeats
        self.after = record.after  #: ids of the tasks before it, which have succeeded
        self.arguments: Mapping[str, Any] = request.arguments
        self.time_limit_s = request.time_limit_s
        self._stop_at_s = (
            math.inf if request.time_limit_s is None else time.monotonic() + request.time_limit_s
        )
        self._is_cancelled = False
        self._fetch = fetch
        self._loops_thread = threading.get_ident()
        self._progress: TaskProgress | None = None

    def progress(self, current: float, total: float, status: str = "") -> None:
        """Tell whoever watches. Cheap: call it for every step; the latest is kept twice a second. A checkpoint."""
        for name, value in (("current", current), ("total", total)):
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value):
                raise InvalidRequest.of(name, f"is {value!r:.40}; it must be a number")
        self._progress = TaskProgress(
            current=current, total=total, status=str(status)[:_MAX_STATUS_CHARACTERS]
        )
        self.checkpoint()

    def result_of(self, task_id: str) -> Any:
        """The result of another task, such as one of ``after``; for plain functions.

        A coroutine awaits `Tasks.get_result`, which says what is raised.
        """
        if threading.get_ident() == self._loops_thread:
            raise RuntimeError("result_of would block this event loop: await Tasks.get_result instead")
        return self._fetch(task_id)

    @property
    def is_cancelled(self) -> bool:
        """Whether the task was cancelled, or another worker has it: what this attempt does counts for nothing."""
        return self._is_cancelled

    def checkpoint(self) -> None:
        """Raise when the attempt must stop. A plain function calls it, or `progress`, twice a second."""
        if self._is_cancelled:
            raise JobCancelled(f"task {self.task_id} was cancelled, or another worker has it")
        if time.monotonic() > self._stop_at_s:
            raise self.out_of_time()

    def out_of_time(self) -> Interrupted:
        """What an attempt ends with that took too long."""
        return TimeLimitExceeded(
            f"the attempt took longer than its time limit of {self.time_limit_s:g} s; submit it with a longer one"
        )

    def take_progress(self) -> TaskProgress | None:
        """What was told since the last call."""
        told, self._progress = self._progress, None
        return told

    def interrupt(self) -> None:
        """Have the next checkpoint raise."""
        self._is_cancelled = True
