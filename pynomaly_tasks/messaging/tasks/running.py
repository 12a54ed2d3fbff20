"""One attempt of a task: the handler is called, watched, interrupted."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.errors import InvalidMessage, TimeLimitExceeded, UnreadableMessage
from pynomaly_tasks.messaging.task_records import Beat, TaskRecord, TryEnd, TryOutcome
from pynomaly_tasks.messaging.tasks.context import TaskContext
from pynomaly_tasks.messaging.tasks.task import Request, TaskError, pack, pack_error, unpack
from pynomaly_tasks.messaging.tasks.tasks import Handler, Tasks
from pynomaly_tasks.messaging.worker import Reject

_LONGEST_FETCH_S = 60.0


class Attempt:
    """Runs a handler once, and says how that ended."""

    def __init__(self, record: TaskRecord, tasks: Tasks, threads: Executor) -> None:
        self.record = record
        self._tasks = tasks
        self._codec = tasks.codec
        self._threads = threads
        self._context: TaskContext | None = None
        self._work: asyncio.Future[Any] | None = None
        self._is_plain = False
        self.outcome = TryOutcome.FAILED
        self.report = b""
        self.delay_s = 0.0

    @property
    def is_interrupted(self) -> bool:
        """Whether it counts for nothing any more."""
        return self._context is not None and self._context.is_cancelled

    def beat(self) -> Beat:
        """What is told of it now."""
        progress = self._context.take_progress() if self._context else None
        data = b""
        if progress is not None:
            told = {"current": progress.current, "total": progress.total, "status": progress.status}
            with suppress(InvalidMessage):  # limits so low that it does not fit: it is told in passing only
                data = pack(self._codec, self.record.id, told)
        return Beat(task_id=self.record.id, attempt=self.record.attempt, progress=data)

    def end(self) -> TryEnd:
        """What is told of it when it has run."""
        last = self.beat()
        return TryEnd(
            task_id=last.task_id,
            attempt=last.attempt,
            outcome=self.outcome,
            report=self.report,
            delay_s=self.delay_s,
            progress=last.progress,
        )

    def interrupt(self) -> None:
        """Stop it: a coroutine at once, a plain function at its next checkpoint."""
        if self._context is not None:
            self._context.interrupt()
        if self._work is not None and not self._is_plain:
            self._work.cancel()

    async def run(self, handler: Handler) -> None:
        """Sets outcome, report and delay. Raises only what is raised into it: CancelledError."""
        try:
            request = Request(**unpack(self._codec, self.record.body))
        except UnreadableMessage as error:
            self._failed("Unreadable", f"its arguments cannot be read by this worker: {error}")
            return
        loop = asyncio.get_running_loop()

        def fetch(task_id: str) -> Any:
            asked = asyncio.run_coroutine_threadsafe(self._tasks.get_result(task_id), loop)
            return asked.result(_LONGEST_FETCH_S)

        self._context = context = TaskContext(self.record, request, fetch)
        try:
            result = await self._call(handler, context)
        except Exception as error:
            self._failed(type(error).__name__, str(error))
            may_retry = isinstance(error, TimeLimitExceeded) or getattr(error, "retryable", True)
            if may_retry and not isinstance(error, Reject) and self.record.n_failed < request.max_retries:
                retry = RetryPolicy(
                    max_retries=request.max_retries,
                    backoff_s=request.backoff_s,
                    backoff_max_s=request.backoff_max_s,
                    jitter=request.jitter,
                )
                self.outcome = TryOutcome.RETRY
                self.delay_s = retry.delay_s(self.record.n_failed + 1)
            return
        try:
            self.report = pack(self._codec, self.record.id, {"result": result})
            self.outcome = TryOutcome.SUCCEEDED
        except InvalidMessage as error:
            self._failed("InvalidResult", f"what the handler returned {error.problems[0].message}")

    def _failed(self, kind: str, message: str) -> None:
        self.outcome = TryOutcome.FAILED
        self.report = pack_error(self._codec, self.record.id, TaskError(type=kind, message=message))

    async def _call(self, handler: Handler, context: TaskContext) -> Any:
        self._is_plain = not _is_coroutine_function(handler)
        loop = asyncio.get_running_loop()
        if self._is_plain:
            run = contextvars.copy_context().run
            self._work = loop.run_in_executor(self._threads, run, handler, context)
        else:
            self._work = loop.create_task(handler(context))
        try:
            # A plain function is not waited for with a limit: it stops at a checkpoint, or has done its work.
            limit_s = None if self._is_plain else context.time_limit_s
            await asyncio.wait({self._work}, timeout=limit_s)
            if not self._work.done():
                self._work.cancel()
                await asyncio.wait({self._work})
                # What ended in spite of the cancel has a result, or its own error.
                if self._work.cancelled():
                    raise context.out_of_time()
        except asyncio.CancelledError:
            # Another worker has the message: what this one does counts for nothing.
            self.interrupt()
            if not self._is_plain:
                await asyncio.wait({self._work})
            raise
        if self._work.cancelled():
            raise RuntimeError("the handler cancelled itself")
        result = self._work.result()
        return await result if inspect.isawaitable(result) else result


def _is_coroutine_function(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004  # an object whose call is a coroutine function
    )
