"""The records of tasks on Redis: a hash each, changed together with the queues in one Lua step."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import orjson

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
)

#: A script's source and its SHA-1.
Script = tuple[str, str]


class RedisTaskRecords:
    """The records of one namespace."""

    def __init__(self, run: Callable[..., Awaitable[Any]]) -> None:
        """``run(script, *arguments)`` runs it on the namespace, with the backend's errors."""
        self._run = run

    async def add(self, task: NewTask) -> Added:
        """Keep it, and put its bell unless it waits for parents."""
        bell = task.bell
        run_at = "" if task.run_at is None else math.ceil(task.run_at.timestamp() * 1000)
        what, task_id, fingerprint = await self._run(
            _ADD, task.id, task.type, bell.channel, bell.body, task.body, task.fingerprint, task.key, bell.priority,
            run_at, _ms(bell.delay_s), "" if task.every_s is None else max(1, _ms(task.every_s)),
            "" if task.n_runs is None else task.n_runs, max(1, _ms(task.keep_s)), task.max_lost, MAX_CHILDREN,
            orjson.dumps(task.after), *task.after,
        )  # fmt: skip
        return Added(Addition(what.decode()), task_id.decode(), fingerprint.decode())

    async def find(self, task_ids: Sequence[str]) -> list[TaskRecord | None]:
        """Each, or None where there is none."""
        now, *found = await self._run(_FIND, *task_ids)
        return [_record(fields, now) if fields else None for fields in found]

    async def start(self, task_id: str, worker: str) -> Started:
        """Begin an attempt."""
        what, delay_ms, now, *fields = await self._run(_START, task_id, worker)
        record = _record(fields, now) if fields else None
        return Started(what=Ring(what.decode()), record=record, delay_s=delay_ms / 1000)

    async def beat(self, beats: Sequence[Beat]) -> list[bool]:
        """Keep the progress of attempts."""
        arguments: list[str | int | bytes] = []
        for beat in beats:
            arguments += [beat.task_id, beat.attempt, beat.progress]
        return [bool(answer) for answer in await self._run(_BEAT, *arguments)]

    async def finish(self, end: TryEnd) -> Finished:
        """End an attempt."""
        what, delay_ms = await self._run(
            _FINISH,
            end.task_id, end.attempt, end.outcome.value, end.report, _ms(end.delay_s), end.progress,
        )  # fmt: skip
        return Finished(what=FinishedAs(what.decode()), delay_s=delay_ms / 1000)

    async def cancel(self, task_id: str, report: bytes) -> bool | None:
        """End it unless it has ended."""
        answer = await self._run(_CANCEL, task_id, report)
        return None if answer < 0 else bool(answer)

    async def newest(self, limit: int) -> list[str]:
        """Ids, newest first."""
        return [task_id.decode() for task_id in await self._run(_NEWEST, limit)]


def _record(fields: Sequence[bytes], now_ms: int) -> TaskRecord:
    found = {fields[at].decode(): fields[at + 1] for at in range(0, len(fields), 2)}

    def text(name: str) -> str:
        return found.get(name, b"").decode()

    def number(name: str) -> int:
        return int(found.get(name) or 0)

    def instant(name: str) -> datetime | None:
        return datetime.fromtimestamp(int(found[name]) / 1000, UTC) if name in found else None

    state = text("state")
    if state == "pending":
        state = "waiting" if number("parents") > 0 or number("due") > now_ms else "queued"
    created_at, run_at = instant("created"), instant("due")
    assert created_at is not None
    assert run_at is not None
    return TaskRecord(
        id=text("id"),
        type=text("type"),
        state=TaskState(state),
        body=found["body"],
        priority=number("priority"),
        after=tuple(orjson.loads(found["after"])),
        n_waiting_for=number("parents"),
        attempt=number("attempt"),
        n_failed=number("n_failed"),
        n_lost=number("n_lost"),
        n_runs=number("n_runs"),
        every_s=int(found["every"]) / 1000 if found["every"] else None,
        created_at=created_at,
        run_at=run_at,
        started_at=instant("started"),
        ended_at=instant("ended"),
        worker=text("worker"),
        progress=found.get("progress", b""),
        outcome=found.get("outcome", b""),
        worker_died="worker_died" in found,
        failed_parent=text("failed_parent"),
        failed_parent_state=text("failed_parent_state"),
    )


def _ms(seconds: float) -> int:
    return math.ceil(seconds * 1000)


def _load(step: str) -> Script:
    folder = files(__package__) / "scripts"
    names = ("channel", "tasks", f"task_{step}")
    source = "\n".join((folder / f"{name}.lua").read_text("utf-8") for name in names)
    return source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


_ADD, _FIND, _START, _BEAT, _FINISH, _CANCEL, _NEWEST = (
    _load(step) for step in ("add", "find", "start", "beat", "finish", "cancel", "newest")
)
