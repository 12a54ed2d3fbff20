"""Submitting tasks, and asking and telling about them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.errors import (
    BrokerUnavailable,
    IdempotencyMismatch,
    InvalidRequest,
    NoHandler,
    NotFound,
    TaskFailed,
)
from pynomaly_tasks.messaging.manager import QueueManager
from pynomaly_tasks.messaging.options import Kind, QueueOptions
from pynomaly_tasks.messaging.publishing import require
from pynomaly_tasks.messaging.task_records import (
    MAX_CHILDREN,
    Added,
    Addition,
    KeepsTasks,
    NewTask,
    TaskRecord,
    TaskState,
)
from pynomaly_tasks.messaging.tasks.context import TaskContext
from pynomaly_tasks.messaging.tasks.submission import build_task, queue_of
from pynomaly_tasks.messaging.tasks.task import Task, TaskError, TaskType, pack_error, read_task, unpack

Handler = Callable[[TaskContext], Any]
Check = Callable[[Mapping[str, Any]], None]

#: Record of the catalog that says that some process has a handler for a type.
_HANDLER_RECORD = "task/"
_FIRST_LOOK_S = 0.02
_LONGEST_LOOK_S = 0.5
_QUEUE_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A handler, and what is checked before its tasks are taken in."""

    handler: Handler
    check: Check | None


class Tasks:
    """Tasks of one messaging broker, one queue a type; every process sees the same.

    Works over an open `QueueManager` whose backend keeps tasks; raises NotSupported, naming those that
    do, for another. Every call raises BrokerUnavailable where the broker gives no answer.
    """

    def __init__(self, manager: QueueManager, *, keep_s: float = 86_400.0, lease_s: float = 30.0) -> None:
        """``keep_s``: how long a task is known after its end; ``lease_s``: after which a dead worker's runs again."""
        require(manager.backend.capabilities, "tasks", "backend", manager.backend.name)
        if not isinstance(manager.backend, KeepsTasks):
            raise InvalidRequest.of(
                "backend", f"{manager.backend.name} says that it keeps tasks, and has no method task_records"
            )
        for name, value in (("keep_s", keep_s), ("lease_s", lease_s)):
            if not 0.1 <= value <= 366 * 86_400:
                raise InvalidRequest.of(name, f"is {value!r}; it must be 0.1 to 31,622,400 seconds")
        self.manager = manager
        self.codec = manager._session.codec
        self.records = manager.backend.task_records()
        self.handlers: dict[str, Registered] = {}
        self._keep_s = keep_s
        # The records count the tries; a bell is never given up for having been rung often.
        retry = RetryPolicy(max_retries=1_000, backoff_s=1.0, backoff_max_s=30.0)
        self._queue_options = QueueOptions(kind=Kind.PRIORITY, lease_s=lease_s, retry=retry)
        self._handled: set[str] = set()

    def add_handler(self, task_type: str, handler: Handler, *, check: Check | None = None) -> None:
        """Have workers made of this run ``handler(context)`` for the type; what it returns is the result, JSON.

        A coroutine function is interrupted by cancellation. A plain function runs in a thread; it looks at
        ``context.is_cancelled``, or calls ``context.progress`` or ``checkpoint``, or runs to its end.
        ``check(arguments)`` raises for arguments that this process need not take in.
        """
        queue_of(task_type)
        if task_type in self.handlers:
            raise InvalidRequest.of("type", f"there is a handler for {task_type} already")
        if not callable(handler):
            raise InvalidRequest.of("handler", f"must be a function, and is {type(handler).__name__}")
        self.handlers[task_type] = Registered(handler=handler, check=check)

    async def submit_task(
        self,
        task_type: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        priority: int = 0,
        delay_s: float | None = None,
        at: datetime | None = None,
        every_s: float | None = None,
        n_runs: int | None = None,
        after: Sequence[str] = (),
        deduplication_key: str = "",
        retry: RetryPolicy | None = None,
        time_limit_s: float | None = None,
        max_lost: int = 3,
        even_without_handler: bool = False,
    ) -> str:
        """Keep a task to be run; its id. From then on it ends, whatever processes die.

        ``priority`` 0 to 255, higher first, among tasks of its type. ``delay_s`` or ``at``: not before.
        ``every_s``: run again, that long apart, ``n_runs`` times or until it is cancelled; a run that is late
        is not made up for. ``after``: ids of tasks that must succeed first; when one does not, this one never
        runs and says so. ``deduplication_key``: the task that was submitted under it is returned while it is
        known. ``retry``: of tries that raise, and of what took longer than ``time_limit_s``. ``max_lost``: as
        many workers may die with it.

        Raises InvalidRequest, naming the field; NotFound for a task in ``after`` that is not known;
        IdempotencyMismatch where the key belongs to another request; NoHandler where no process has ever
        registered a handler for the type (``even_without_handler`` keeps the task until one does).
        """
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise InvalidRequest.of("retry", f"must be a RetryPolicy, not {type(retry).__name__}")
        task = build_task(
            self.codec,
            task_type,
            arguments,
            priority=priority,
            delay_s=delay_s,
            at=at,
            every_s=every_s,
            n_runs=n_runs,
            after=after,
            deduplication_key=deduplication_key,
            retry=retry or RetryPolicy(),
            time_limit_s=time_limit_s,
            max_lost=max_lost,
            keep_s=self._keep_s,
        )
        registered = self.handlers.get(task_type)
        if registered is not None and registered.check is not None:
            await asyncio.to_thread(registered.check, dict(arguments or {}))
        if not even_without_handler:
            await self._require_handler(task_type)
        added = await self._add(task)
        if added.what is Addition.EXISTS and added.fingerprint != task.fingerprint:
            raise IdempotencyMismatch(
                f"deduplication_key: {deduplication_key!r:.80} belongs to task {added.task_id}, "
                "which has another type or other arguments"
            )
        _refuse(added)
        return added.task_id

    async def get_task(self, task_id: str) -> Task:
        """As it stands. Raises NotFound."""
        return read_task(self.codec, await self._record(task_id))

    async def get_result(self, task_id: str, *, wait_s: float = 0.0) -> Any:
        """What its handler returned; of a task that repeats, at its last run, whatever became of it since.

        Raises NotFound; TaskFailed, saying why, for one that ended without; TimeoutError for one that has
        not ended within ``wait_s``.
        """
        record = await self._ended(task_id, wait_s)
        if record.state is TaskState.SUCCEEDED or (record.every_s is not None and record.n_runs):
            report = unpack(self.codec, record.outcome) if record.outcome else {}
            if "result" in report:
                return report["result"]
        if not record.state.is_final and record.every_s is None:
            raise TimeoutError(f"task {task_id} is {record.state.value}, {wait_s:g} s after it was asked for")
        error = read_task(self.codec, record).error
        why = f"{error.type}: {error.message}" if error else record.state.value
        raise TaskFailed(f"task {task_id} has no result: {why}")

    async def wait_for_end(self, task_id: str, wait_s: float) -> Task:
        """As it stands when it has ended, or ``wait_s`` passed. Raises NotFound."""
        return read_task(self.codec, await self._ended(task_id, wait_s))

    async def cancel_task(self, task_id: str, reason: str = "") -> bool:
        """End it: it never runs, or its run counts for nothing and is interrupted. False: it had ended.

        Tasks that follow it never run, and say so. Raises NotFound.
        """
        report = pack_error(self.codec, task_id, TaskError(type="Cancelled", message=reason or "cancelled"))
        cancelled = await self.records.cancel(task_id, report)
        if cancelled is None:
            raise _not_found(task_id)
        return cancelled

    async def list_tasks(
        self, *, state: TaskState | str | None = None, task_type: str | None = None, limit: int = 100
    ) -> list[Task]:
        """Newest first, among the 10,000 newest."""
        if type(limit) is not int or not 1 <= limit <= 10_000:
            raise InvalidRequest.of("limit", f"is {limit!r}; it must be a whole number, 1 to 10,000")
        if state is not None and state not in set(TaskState):
            raise InvalidRequest.of("state", f"is {state!r:.40}; the states are {', '.join(TaskState)}")
        ids, found = await self.records.newest(10_000), []
        for at in range(0, len(ids), 200):
            for record in await self.records.find(ids[at : at + 200]):
                if record is None or (task_type is not None and record.type != task_type):
                    continue
                if state is None or record.state == state:
                    found.append(read_task(self.codec, record))
            if len(found) >= limit:
                break
        return found[:limit]

    async def announce(self, task_types: Collection[str]) -> None:
        """Have every process know that there is a handler for these types, and make their queues."""
        for task_type in task_types:
            await self.manager.create_queue(queue_of(task_type), self._queue_options)
            await self.manager.backend.declare(f"{_HANDLER_RECORD}{task_type}", b"1")

    async def _require_handler(self, task_type: str) -> None:
        if task_type in self.handlers or task_type in self._handled:
            return
        records = (await self.manager.backend.read_catalog()).records
        self._handled = {
            name.removeprefix(_HANDLER_RECORD) for name in records if name.startswith(_HANDLER_RECORD)
        }
        if task_type in self._handled:
            return
        known = sorted(self._handled | set(self.handlers))
        is_typo = task_type not in set(TaskType)
        raise NoHandler(
            f"type: no process has a handler for {task_type!r:.60}; "
            + (f"there are handlers for {', '.join(known)}; " if known else "")
            + (f"the types known by name are {', '.join(TaskType)}; " if is_typo else "")
            + "register one with add_handler and start a TaskWorker, or submit with even_without_handler=True"
        )

    async def _add(self, task: NewTask) -> Added:
        for _ in range(_QUEUE_TRIES):
            added = await self.records.add(task)
            if added.what is not Addition.NO_QUEUE:
                return added
            await self.manager.create_queue(task.bell.channel, self._queue_options)
        raise BrokerUnavailable(f"the queue {task.bell.channel} is deleted again and again; nothing was kept")

    async def _record(self, task_id: str) -> TaskRecord:
        (record,) = await self.records.find([task_id])
        if record is None:
            raise _not_found(task_id)
        return record

    async def _ended(self, task_id: str, wait_s: float) -> TaskRecord:
        """The record, when it is final or ``wait_s`` passed; of one that repeats, after a run more."""
        end_s, look_s = time.monotonic() + wait_s, _FIRST_LOOK_S
        record = first = await self._record(task_id)
        while not record.state.is_final and (left_s := end_s - time.monotonic()) > 0:
            if record.n_runs > first.n_runs:
                break
            await asyncio.sleep(min(look_s, left_s))
            look_s = min(look_s * 1.5, _LONGEST_LOOK_S)
            record = await self._record(task_id)
        return record


def _refuse(added: Added) -> None:
    if added.what is Addition.NO_PARENT:
        raise NotFound(
            f"after: there is no task {added.task_id!r:.80}, or it ended so long ago that it is forgotten"
        )
    if added.what is Addition.PARENT_REPEATS:
        raise InvalidRequest.of("after", f"task {added.task_id} repeats, so that it has no end to wait for")
    if added.what is Addition.PARENT_FULL:
        raise InvalidRequest.of(
            "after", f"{MAX_CHILDREN:,} tasks wait for task {added.task_id} already, which is the limit"
        )


def _not_found(task_id: object) -> NotFound:
    return NotFound(f"there is no task {task_id!r:.80}; it may have ended so long ago that it is forgotten")
