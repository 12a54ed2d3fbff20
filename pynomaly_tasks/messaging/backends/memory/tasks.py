"""The records of tasks in memory, changed together with the queues: nothing else runs in between."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from pynomaly_tasks.messaging.backends.memory.broker import MemoryBroker
from pynomaly_tasks.messaging.backends.memory.records import PENDING, RUNNING, MemoryTask, MemoryTasks
from pynomaly_tasks.messaging.task_records import (
    MAX_CHILDREN,
    Added,
    Addition,
    Beat,
    Finished,
    FinishedAs,
    NewTask,
    Ring,
    Started,
    TaskRecord,
    TaskState,
    TryEnd,
    TryOutcome,
)


class MemoryTaskRecords:
    """The records of one broker."""

    def __init__(self, broker: Callable[[], MemoryBroker]) -> None:
        """``broker`` raises MessagingClosed unless the backend is open."""
        self._open_broker = broker

    @property
    def _tasks(self) -> MemoryTasks:
        """Those that are not forgotten yet."""
        broker = self._open_broker()
        tasks, now = broker.tasks, broker.clock()
        while tasks.ended and tasks.ended[0][0] <= now:
            task = tasks.by_id.pop(heapq.heappop(tasks.ended)[1])
            tasks.by_key.pop(task.new.key, None)
        return tasks

    async def add(self, task: NewTask) -> Added:
        """Keep it, and put its bell unless it waits for parents."""
        broker, tasks = self._open_broker(), self._tasks
        now = broker.clock()
        if f"queue/{task.bell.channel}" not in broker.records:
            return Added(Addition.NO_QUEUE, task.id)
        if task.key in tasks.by_key:
            known = tasks.by_key[task.key]
            return Added(Addition.EXISTS, known, tasks.by_id[known].new.fingerprint)
        for parent in task.after:
            found = tasks.by_id.get(parent)
            if found is None:
                return Added(Addition.NO_PARENT, parent)
            if found.is_live and found.new.every_s is not None:
                return Added(Addition.PARENT_REPEATS, parent)
            if found.is_live and len(tasks.children.get(parent, ())) >= MAX_CHILDREN:
                return Added(Addition.PARENT_FULL, parent)
        due = now + task.bell.delay_s
        if task.run_at is not None:
            due = max(now, now + task.run_at.timestamp() - time.time())
        kept = MemoryTask(task, due=due, slot=due, created=now, runs_left=task.n_runs)
        tasks.by_id[task.id] = kept
        if task.key:
            tasks.by_key[task.key] = task.id
        parents = [(parent, tasks.by_id[parent]) for parent in task.after]
        failed = [
            (parent, each) for parent, each in parents if not each.is_live and each.state != "succeeded"
        ]
        if failed:
            kept.failed_parent, kept.failed_parent_state = failed[0][0], failed[0][1].state
            self._end(kept, "parent_failed", b"")
            return Added(Addition.ADDED, task.id)
        for parent, each in parents:
            if each.is_live:
                tasks.children.setdefault(parent, []).append(task.id)
                kept.parents += 1
        if not kept.parents:
            self._ring(kept)
        return Added(Addition.ADDED, task.id)

    async def find(self, task_ids: Sequence[str]) -> list[TaskRecord | None]:
        """Each, or None where there is none."""
        by_id = self._tasks.by_id
        return [self._record(by_id[task_id]) if task_id in by_id else None for task_id in task_ids]

    async def start(self, task_id: str, worker: str) -> Started:
        """Begin an attempt."""
        task = self._tasks.by_id.get(task_id)
        if task is None:
            return Started(what=Ring.UNKNOWN)
        now = self._open_broker().clock()
        if not task.is_live:
            return Started(what=Ring.ENDED)
        if task.state == PENDING and task.due > now:
            return Started(what=Ring.LATER, delay_s=task.due - now)
        if task.state == RUNNING:
            task.n_lost += 1
            if task.n_lost >= task.new.max_lost:
                finished = self._end_run(task, "failed", b"")
                task.worker_died = True
                what = Ring.LATER if finished.what is FinishedAs.AGAIN else Ring.ENDED
                return Started(what=what, delay_s=finished.delay_s)
        task.attempt += 1
        task.state, task.started, task.worker = RUNNING, now, worker
        task.progress, task.worker_died = b"", False
        return Started(what=Ring.STARTED, record=self._record(task))

    async def beat(self, beats: Sequence[Beat]) -> list[bool]:
        """Keep the progress of attempts."""
        answers = []
        for beat in beats:
            task = self._running(beat.task_id, beat.attempt)
            if task is not None and beat.progress:
                task.progress = beat.progress
            answers.append(task is not None)
        return answers

    async def finish(self, end: TryEnd) -> Finished:
        """End an attempt."""
        task = self._running(end.task_id, end.attempt)
        if task is None:
            return Finished(what=FinishedAs.LOST)
        task.progress = end.progress or task.progress
        if end.outcome is not TryOutcome.RETRY:
            return self._end_run(task, end.outcome.value, end.report)
        task.n_failed += 1
        task.state, task.due, task.outcome = PENDING, self._open_broker().clock() + end.delay_s, end.report
        return Finished(what=FinishedAs.AGAIN, delay_s=end.delay_s)

    async def cancel(self, task_id: str, report: bytes) -> bool | None:
        """End it unless it has ended."""
        task = self._tasks.by_id.get(task_id)
        if task is None:
            return None
        if not task.is_live:
            return False
        self._end(task, "cancelled", report)
        return True

    async def newest(self, limit: int) -> list[str]:
        """Ids, newest first."""
        return list(reversed(self._tasks.by_id))[:limit]

    def _running(self, task_id: str, attempt: int) -> MemoryTask | None:
        task = self._tasks.by_id.get(task_id)
        return task if task is not None and task.state == RUNNING and task.attempt == attempt else None

    def _ring(self, task: MemoryTask) -> None:
        broker = self._open_broker()
        broker.put(replace(task.new.bell, delay_s=max(0.0, task.due - broker.clock())))

    def _end(self, task: MemoryTask, state: str, report: bytes) -> None:
        tasks, now = self._tasks, self._open_broker().clock()
        task.outcome = report
        ending: list[tuple[MemoryTask, str, MemoryTask | None]] = [(task, state, None)]
        while ending:
            this, how, parent = ending.pop()
            if parent is not None and this.state != PENDING:
                continue  # a child of two parents that end together
            this.state, this.ended, this.parents = how, now, 0
            heapq.heappush(tasks.ended, (now + this.new.keep_s, this.new.id))
            if parent is not None:
                this.failed_parent, this.failed_parent_state = parent.new.id, parent.state
            for child_id in tasks.children.pop(this.new.id, ()):
                child = tasks.by_id.get(child_id)
                if child is None or child.state != PENDING:
                    continue
                if how != "succeeded":
                    ending.append((child, "parent_failed", this))
                    continue
                child.parents -= 1
                if not child.parents:
                    self._ring(child)

    def _end_run(self, task: MemoryTask, state: str, report: bytes) -> Finished:
        every_s, now = task.new.every_s, self._open_broker().clock()
        task.n_runs += every_s is not None
        if every_s is None or task.runs_left == 1:
            self._end(task, state, report)
            return Finished(what=FinishedAs.ENDED)
        task.slot += every_s * (max(0, int((now - task.slot) // every_s)) + 1)
        task.runs_left = None if task.runs_left is None else task.runs_left - 1
        task.state, task.due, task.outcome = PENDING, task.slot, report
        task.n_failed = task.n_lost = 0
        return Finished(what=FinishedAs.AGAIN, delay_s=task.slot - now)

    def _record(self, task: MemoryTask) -> TaskRecord:
        now, new = self._open_broker().clock(), task.new
        instant = self._tasks.instant
        state = task.state
        if state == PENDING:
            state = "waiting" if task.parents or task.due > now else "queued"
        return TaskRecord(
            id=new.id,
            type=new.type,
            state=TaskState(state),
            body=new.body,
            priority=new.bell.priority,
            after=new.after,
            n_waiting_for=task.parents,
            attempt=task.attempt,
            n_failed=task.n_failed,
            n_lost=task.n_lost,
            n_runs=task.n_runs,
            every_s=new.every_s,
            created_at=instant(task.created),
            run_at=instant(task.due),
            started_at=None if task.started is None else instant(task.started),
            ended_at=None if task.ended is None else instant(task.ended),
            worker=task.worker,
            progress=task.progress,
            outcome=task.outcome,
            worker_died=task.worker_died,
            failed_parent=task.failed_parent,
            failed_parent_state=task.failed_parent_state,
        )
