"""Runs tasks: a `Worker` for each type, and one heart that beats for all that runs."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeVar

from pynomaly_tasks.errors import InvalidRequest, Unavailable
from pynomaly_tasks.messaging.message import Message
from pynomaly_tasks.messaging.task_records import Finished, FinishedAs, Ring
from pynomaly_tasks.messaging.tasks.running import Attempt
from pynomaly_tasks.messaging.tasks.submission import queue_of
from pynomaly_tasks.messaging.tasks.tasks import Tasks
from pynomaly_tasks.messaging.worker import Later, Reject, Worker
from pynomaly_tasks.telemetry import get_logger

T = TypeVar("T")

log = get_logger(__name__)

_FINISH_TRIES = 8
_ANNOUNCE_PAUSE_S = 0.5
#: By a clock of our own; the broker says how long is left when it is heard again.
_LONGEST_DELAY_S = 60.0


class TaskWorker:
    """Runs the handlers of `Tasks` in this process.

    A cancelled task is noticed within ``beat_s``; the progress of what runs is kept as often.
    """

    def __init__(
        self,
        tasks: Tasks,
        *,
        types: Sequence[str] | None = None,
        concurrency: int = 2,
        beat_s: float = 0.5,
        observe: Callable[[str, str, float], None] = lambda queue, outcome, seconds: None,
    ) -> None:
        """``types`` None takes every type with a handler; ``concurrency``: tasks of one type at once.

        ``observe`` is called for each attempt with its queue, how it ended (succeeded, failed, retry,
        interrupted) and the seconds that it took.
        """
        chosen = tuple(tasks.handlers if types is None else dict.fromkeys(types))
        if not chosen:
            raise InvalidRequest.of("types", "are none; register a handler with Tasks.add_handler first")
        for task_type in chosen:
            if task_type not in tasks.handlers:
                raise InvalidRequest.of(
                    "types", f"{task_type!r:.60} has no handler; add_handler registers one"
                )
        if not 0.01 <= beat_s <= 60:
            raise InvalidRequest.of("beat_s", f"is {beat_s!r}; it must be 0.01 to 60 seconds")
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
        self.types = chosen
        self._tasks = tasks
        self._beat_s = beat_s
        self._observe = observe
        self._is_stopping = False
        self._running: dict[tuple[str, int], Attempt] = {}
        self._n_threads = concurrency * len(chosen)
        self._threads: ThreadPoolExecutor | None = None
        # One worker a type, each fetching one at a time: nothing is held here that could run elsewhere.
        self.workers: dict[str, Worker] = {}
        for task_type in chosen:
            worker = Worker(tasks.manager, [queue_of(task_type)], concurrency=concurrency, batch_size=1)
            worker.add_handler(self._hear)
            self.workers[task_type] = worker

    def stop(self) -> None:
        """Finish what runs, start nothing more, and let `run` return."""
        self._is_stopping = True
        for worker in self.workers.values():
            worker.stop()

    async def run(self, *, handle_signals: bool = True) -> None:
        """Until `stop`, or SIGTERM or SIGINT. A broker that is away is waited for."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT) if handle_signals else ()
        for number in signals:
            loop.add_signal_handler(number, self.stop)
        try:
            await self._while_beating(self._run_all, patient=True)
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    async def run_once(self) -> int:
        """Run what is due now, until every queue is empty; how many tries that were. For cron."""
        return await self._while_beating(self._run_all_once)

    async def _run_all(self) -> None:
        running = [asyncio.create_task(each.run(handle_signals=False)) for each in self.workers.values()]
        try:
            await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self.stop()
            await asyncio.gather(*running)

    async def _run_all_once(self) -> int:
        n, found = 0, 1
        while found:
            found = sum(await asyncio.gather(*(each.run_once() for each in self.workers.values())))
            n += found
        return n

    async def _while_beating(self, work: Callable[[], Awaitable[T]], *, patient: bool = False) -> T:
        await self._announce(patient)
        beating = asyncio.create_task(self._beat())
        # Of our own: the loop's are few, and a plain function may take hours.
        self._threads = ThreadPoolExecutor(self._n_threads, thread_name_prefix="task")
        try:
            return await work()
        finally:
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _announce(self, patient: bool) -> None:
        while True:
            try:
                await self._tasks.announce(self.types)
                return
            except Unavailable as error:
                if not patient or self._is_stopping:
                    raise
                log.warning("broker_away", error=str(error), next_try_in_s=_ANNOUNCE_PAUSE_S)
                await asyncio.sleep(_ANNOUNCE_PAUSE_S)

    async def _hear(self, bell: Message) -> None:
        """A bell was rung: run its task, if it may run now."""
        task_id = bell.payload.get("task") if isinstance(bell.payload, dict) else None
        if not isinstance(task_id, str):
            raise Reject("this is a queue of tasks, and the message names none; submit_task submits them")
        started = await self._tasks.records.start(task_id, self.name)
        if started.what is Ring.LATER:
            raise Later(started.delay_s)
        if started.record is None:
            log.info("task_had_ended", task_id=task_id)
            return
        assert self._threads is not None
        attempt = Attempt(started.record, self._tasks, self._threads)
        key = (task_id, started.record.attempt)
        self._running[key] = attempt
        began_s = time.monotonic()
        try:
            await attempt.run(self._tasks.handlers[started.record.type].handler)
        finally:
            self._running.pop(key, None)
            outcome = "interrupted" if attempt.is_interrupted else attempt.outcome.value
            self._observe(queue_of(started.record.type), outcome, time.monotonic() - began_s)
        if attempt.is_interrupted:
            log.info("task_interrupted", task_id=task_id, attempt=attempt.record.attempt)
            finished = await self._after_loss(task_id)
        else:
            finished = await self._finish(attempt)
        log.info(
            "task_tried",
            task_id=task_id,
            type=attempt.record.type,
            attempt=attempt.record.attempt,
            outcome=attempt.outcome.value,
            became=finished.what.value,
        )
        if finished.what is FinishedAs.AGAIN:
            raise Later(finished.delay_s)

    async def _finish(self, attempt: Attempt) -> Finished:
        """A broker that is away for a while is waited for: what was done need not be done again."""
        end = attempt.end()
        for n in range(_FINISH_TRIES):
            try:
                finished = await self._tasks.records.finish(end)
                return (
                    finished if finished.what is not FinishedAs.LOST else await self._after_loss(end.task_id)
                )
            except Unavailable:
                if n == _FINISH_TRIES - 1:
                    raise
                await asyncio.sleep(0.1 * 2**n)
        raise AssertionError("unreachable")

    async def _after_loss(self, task_id: str) -> Finished:
        """It is not this attempt's any more: cancelled, another's, or this one's end was kept and its answer lost.

        While the task has not ended, its bell must lie in the queue: there is no other one.
        """
        (record,) = await self._tasks.records.find([task_id])
        if record is None or record.state.is_final:
            return Finished(what=FinishedAs.LOST)
        left_s = (record.run_at - datetime.now(UTC)).total_seconds()
        return Finished(what=FinishedAs.AGAIN, delay_s=min(max(left_s, 0.0), _LONGEST_DELAY_S))

    async def _beat(self) -> None:
        """Keep the progress of what runs, and interrupt what was cancelled or is another's."""
        while True:
            await asyncio.sleep(self._beat_s)
            attempts = list(self._running.values())
            if not attempts:
                continue
            try:
                ours = await self._tasks.records.beat([attempt.beat() for attempt in attempts])
            except Unavailable as error:
                log.warning("tasks_not_beaten", error=str(error))
                continue
            for attempt, is_ours in zip(attempts, ours, strict=True):
                if not is_ours:
                    attempt.interrupt()
