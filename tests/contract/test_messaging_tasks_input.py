"""What cannot be a task is refused at the door, with the field and the way out; nothing is kept."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.errors import InvalidRequest, NotFound
from pynomaly_tasks.messaging import QueueManager, build_backend
from pynomaly_tasks.messaging.tasks import TaskContext, Tasks, TaskWorker


async def work(context: TaskContext) -> None: ...


DEEP: list[Any] = []
for _ in range(1_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"task_type": ""}, "type: is empty"),
        ({"task_type": "<script>"}, "type: '<script>' may hold only"),
        ({"task_type": "x" * 129}, "type: is 129 characters long"),
        ({"task_type": "x" * 125}, "type: has more than 122 characters"),
        ({"task_type": 7}, "type: must be text, not int"),
        ({"arguments": [1]}, "arguments: must map names to JSON values, and is list"),
        ({"arguments": "x"}, "arguments: must map names to JSON values, and is str"),
        ({"arguments": {"x": float("nan")}}, "arguments: holds nan"),
        ({"arguments": {"x": b"x"}}, "arguments: holds bytes"),
        ({"arguments": {1: 2}}, "arguments: has the key 1"),
        ({"arguments": {"x": "x" * 5_000_000}}, "arguments: is 5,000,008 bytes of JSON; at most 1,048,576"),
        ({"arguments": {"x": DEEP}}, "arguments: is nested deeper than 64 levels"),
        ({"priority": 256}, "priority: is 256; it must be a whole number, 0 to 255"),
        ({"priority": -1}, "priority: is -1"),
        ({"priority": True}, "priority: is True"),
        ({"delay_s": -1.0}, "delay_s: is -1; it must be 0 to"),
        ({"delay_s": float("inf")}, "delay_s: is inf"),
        ({"delay_s": float("nan")}, "delay_s: is nan; it must be a number of seconds"),
        ({"delay_s": "soon"}, "delay_s: is 'soon'"),
        ({"at": datetime(2030, 1, 1)}, "at: is datetime.datetime(2030, 1, 1, 0, 0)"),
        ({"at": "tomorrow"}, "it must be a datetime with a time zone"),
        ({"at": datetime.now(UTC) + timedelta(days=900)}, "seconds away; at most"),
        ({"at": datetime.now(UTC), "delay_s": 1.0}, "at: and delay_s were both given; give one"),
        ({"every_s": 0.0}, "every_s: is 0; it must be 0.1 to"),
        ({"n_runs": 3}, "n_runs: is for tasks that repeat; give every_s too"),
        ({"every_s": 1.0, "n_runs": 0}, "n_runs: is 0; it must be a whole number, 1 to"),
        ({"after": 7}, "after: must be the id of a task, or a list of ids"),
        ({"after": [""]}, "after: must be the id of a task"),
        ({"after": [str(n) for n in range(101)]}, "after: names 101 tasks; at most 100"),
        ({"deduplication_key": "k" * 201}, "deduplication_key: must be text of at most 200 characters"),
        ({"deduplication_key": None}, "deduplication_key: must be text"),
        ({"retry": 3}, "retry: must be a RetryPolicy, not int"),
        ({"retry": RetryPolicy(max_retries=-1)}, "retry.max_retries: is -1"),
        ({"retry": RetryPolicy(backoff_s=-1.0)}, "retry.backoff_s: is -1"),
        ({"retry": RetryPolicy(jitter=2.0)}, "retry.jitter: is 2.0; it is a share, 0 to 1"),
        ({"time_limit_s": 0.0}, "time_limit_s: is 0"),
        ({"max_lost": 0}, "max_lost: is 0; it must be a whole number, 1 to"),
    ],
)
async def test_what_cannot_be_a_task_is_refused(options: dict[str, Any], says: str) -> None:
    async with QueueManager(build_backend("memory")) as manager:
        tasks = Tasks(manager)
        tasks.add_handler("export", work)
        with pytest.raises(InvalidRequest) as caught:
            await tasks.submit_task(**{"task_type": "export", **options})

        assert says in str(caught.value)
        assert await tasks.list_tasks() == []


async def test_parents_that_cannot_be_waited_for_are_refused() -> None:
    async with QueueManager(build_backend("memory")) as manager:
        tasks = Tasks(manager)
        tasks.add_handler("export", work)
        repeats = await tasks.submit_task("export", every_s=3_600.0)
        crowded = await tasks.submit_task("export")
        for _ in range(1_000):
            await tasks.submit_task("export", after=[crowded])

        with pytest.raises(NotFound, match="after: there is no task 'nothing'"):
            await tasks.submit_task("export", after=["nothing"])
        with pytest.raises(InvalidRequest, match="repeats, so that it has no end to wait for"):
            await tasks.submit_task("export", after=[repeats])
        with pytest.raises(InvalidRequest, match="1,000 tasks wait for task"):
            await tasks.submit_task("export", after=[crowded])


async def test_handlers_and_workers_that_cannot_be_are_refused() -> None:
    async with QueueManager(build_backend("memory")) as manager:
        tasks = Tasks(manager)
        with pytest.raises(InvalidRequest, match="types: are none; register a handler"):
            TaskWorker(tasks)
        tasks.add_handler("export", work)
        with pytest.raises(InvalidRequest, match="there is a handler for export already"):
            tasks.add_handler("export", work)
        with pytest.raises(InvalidRequest, match="handler: must be a function, and is int"):
            tasks.add_handler("import", 7)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match="types: 'import' has no handler"):
            TaskWorker(tasks, types=["import"])
        with pytest.raises(InvalidRequest, match="beat_s: is 0"):
            TaskWorker(tasks, beat_s=0)
        for options in ({"keep_s": 0}, {"lease_s": -1}, {"keep_s": float("nan")}):
            with pytest.raises(InvalidRequest, match=r"must be 0\.1 to"):
                Tasks(manager, **options)
        for options, says in (({"limit": 0}, "limit: is 0"), ({"state": "done"}, "state: is 'done'")):
            with pytest.raises(InvalidRequest, match=says):
                await tasks.list_tasks(**options)  # type: ignore[arg-type]


async def test_progress_that_is_no_number_fails_the_attempt_that_tells_it() -> None:
    async def tells(context: TaskContext) -> None:
        context.progress(float("nan"), 2)

    async with QueueManager(build_backend("memory")) as manager:
        tasks = Tasks(manager)
        tasks.add_handler("export", tells)
        task_id = await tasks.submit_task("export")
        await TaskWorker(tasks).run_once()
        ended = await tasks.get_task(task_id)

    assert ended.error is not None
    assert "current: is nan; it must be a number" in ended.error.message


async def test_coroutine_that_asks_for_a_result_as_a_thread_would_is_told_how() -> None:
    async def asks(context: TaskContext) -> None:
        context.result_of(context.after[0])

    def thread_asks(context: TaskContext) -> Any:
        return context.result_of(context.after[0])

    async def first(context: TaskContext) -> int:
        return 42

    async with QueueManager(build_backend("memory")) as manager:
        tasks = Tasks(manager)
        tasks.add_handler("export", first)
        tasks.add_handler("import", asks)
        tasks.add_handler("validation", thread_asks)
        parent = await tasks.submit_task("export")
        wrong = await tasks.submit_task("import", after=[parent], retry=RetryPolicy(max_retries=0))
        right = await tasks.submit_task("validation", after=[parent])
        worker = TaskWorker(tasks)
        running = asyncio.create_task(worker.run(handle_signals=False))
        ended = await tasks.wait_for_end(wrong, 5.0)
        result = await tasks.get_result(right, wait_s=5.0)
        worker.stop()
        await running

    assert ended.error is not None
    assert "await Tasks.get_result instead" in ended.error.message
    assert result == 42
