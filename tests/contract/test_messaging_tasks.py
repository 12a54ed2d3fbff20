"""Tasks over message queues: submit, watch, cancel, schedule, chain, and what survives."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.errors import (
    IdempotencyMismatch,
    InvalidInput,
    NoHandler,
    NotFound,
    NotSupported,
    TaskFailed,
)
from pynomaly_tasks.messaging import Codec, CodecLimits, Reason, Reject, Support
from pynomaly_tasks.messaging.task_records import Beat, FinishedAs, TryEnd, TryOutcome
from pynomaly_tasks.messaging.tasks import TaskContext, Tasks, TaskState, TaskType, TaskWorker
from support.messaging import BrokerUnderTest, MemoryUnderTest, ServerUnderTest, until

AT_ONCE = RetryPolicy(max_retries=2, backoff_s=0.0)


def end(task_id: str, attempt: int, outcome: TryOutcome, report: bytes = b"") -> TryEnd:
    return TryEnd(task_id=task_id, attempt=attempt, outcome=outcome, report=report)


@pytest.fixture(params=["memory", "redis_streams"])
def task_broker(request: pytest.FixtureRequest) -> Iterator[BrokerUnderTest]:
    """An empty broker that keeps tasks."""
    if request.param == "memory":
        yield MemoryUnderTest()
        return
    server = request.getfixturevalue("redis_server")
    yield ServerUnderTest("redis_streams", f"{server.url}/0")


@asynccontextmanager
async def connected(broker: BrokerUnderTest, **options: Any) -> AsyncIterator[Tasks]:
    """As one process would have them."""
    codec = options.pop("codec", None)
    async with broker.manager(codec=codec) as manager:
        yield Tasks(manager, **options)


@asynccontextmanager
async def working(tasks: Tasks, **options: Any) -> AsyncIterator[TaskWorker]:
    """While a worker runs."""
    worker = TaskWorker(tasks, beat_s=0.02, **options)
    running = asyncio.create_task(worker.run(handle_signals=False))
    try:
        yield worker
    finally:
        worker.stop()
        await running


async def echo(context: TaskContext) -> dict[str, Any]:
    return {"arguments": dict(context.arguments), "attempt": context.attempt}


async def fail(context: TaskContext) -> None:
    raise ValueError(f"attempt {context.attempt} failed")


@pytest.mark.parametrize("task_type", TaskType)
async def test_task_of_each_type_is_run_and_its_result_kept(
    task_broker: BrokerUnderTest, task_type: TaskType
) -> None:
    async with connected(task_broker) as tasks, connected(task_broker) as others:
        tasks.add_handler(task_type, echo)
        task_id = await tasks.submit_task(task_type, {"n": [1, None, "ü"]})
        before = await others.get_task(task_id)
        n_tries = await TaskWorker(tasks).run_once()
        after = await others.get_task(task_id)

        assert (before.state, before.attempt, before.arguments) == (
            TaskState.QUEUED,
            0,
            {"n": [1, None, "ü"]},
        )
        assert (n_tries, after.state, after.attempt, after.error) == (1, TaskState.SUCCEEDED, 1, None)
        assert await others.get_result(task_id) == {"arguments": {"n": [1, None, "ü"]}, "attempt": 1}
        assert (
            before.created_at
            <= (after.started_at or before.created_at)
            <= (after.ended_at or datetime.now(UTC))
        )


async def test_plain_function_runs_in_a_thread(task_broker: BrokerUnderTest) -> None:
    async with connected(task_broker) as tasks:
        tasks.add_handler("export", lambda context: threading.current_thread() is threading.main_thread())
        worker = TaskWorker(tasks)
        for _ in range(2):
            task_id = await tasks.submit_task("export")
            await worker.run_once()

            assert await tasks.get_result(task_id) is False


async def test_tasks_start_by_priority_and_in_order_within_it(task_broker: BrokerUnderTest) -> None:
    seen = []

    async def note(context: TaskContext) -> None:
        seen.append(context.arguments["n"])

    async with connected(task_broker) as tasks:
        tasks.add_handler("export", note)
        for n, priority in enumerate([0, 255, 0, 7, 255]):
            await tasks.submit_task("export", {"n": n}, priority=priority)
        await TaskWorker(tasks, concurrency=1).run_once()

    assert seen == [1, 4, 3, 0, 2]


async def test_progress_is_seen_while_it_runs_and_kept_at_the_end(task_broker: BrokerUnderTest) -> None:
    go_on = asyncio.Event()

    async def work(context: TaskContext) -> None:
        for step in range(1_000):
            context.progress(step, 2_000, "first half")
        await go_on.wait()
        context.progress(2_000, 2_000, "done")

    async with connected(task_broker) as tasks, connected(task_broker) as others:
        tasks.add_handler("import", work)
        async with working(tasks):
            task_id = await tasks.submit_task("import")

            async def told() -> Any:
                return (await others.get_task(task_id)).progress

            halfway = await until(told, "progress")
            go_on.set()
            ended = await others.wait_for_end(task_id, 5.0)

    assert (halfway.current, halfway.total, halfway.status) == (999, 2_000, "first half")
    assert ended.progress is not None
    assert (ended.progress.current, ended.progress.status) == (2_000, "done")


async def test_failed_try_is_retried_after_its_backoff_and_the_last_error_kept(
    task_broker: BrokerUnderTest,
) -> None:
    async with connected(task_broker) as tasks:
        tasks.add_handler("export", fail)
        async with working(tasks):
            task_id = await tasks.submit_task(
                "export", retry=RetryPolicy(max_retries=2, backoff_s=0.05, jitter=0.0)
            )
            ended = await tasks.wait_for_end(task_id, 5.0)

            assert (ended.state, ended.attempt, ended.n_failed) == (TaskState.FAILED, 3, 2)
            assert ended.error is not None
            assert (ended.error.type, ended.error.message) == ("ValueError", "attempt 3 failed")
            assert (ended.ended_at or ended.created_at) - ended.created_at >= timedelta(seconds=0.15)
            with pytest.raises(TaskFailed, match="ValueError: attempt 3 failed"):
                await tasks.get_result(task_id)


@pytest.mark.parametrize("error", [Reject("never"), InvalidInput("never")])
async def test_error_that_no_retry_can_mend_is_the_last(
    task_broker: BrokerUnderTest, error: Exception
) -> None:
    async def refuse(context: TaskContext) -> None:
        raise error

    async with connected(task_broker) as tasks:
        tasks.add_handler("export", refuse)
        task_id = await tasks.submit_task("export", retry=AT_ONCE)
        await TaskWorker(tasks).run_once()
        ended = await tasks.get_task(task_id)

    assert (ended.state, ended.attempt) == (TaskState.FAILED, 1)


async def test_cancelled_task_never_runs(task_broker: BrokerUnderTest) -> None:
    ran = []

    async with connected(task_broker) as tasks:
        tasks.add_handler("export", ran.append)
        cancelled = await tasks.submit_task("export")
        later = await tasks.submit_task("export", delay_s=0.05)

        assert await tasks.cancel_task(cancelled, "no longer needed") is True
        assert await tasks.cancel_task(later) is True
        assert await tasks.cancel_task(later) is False
        async with working(tasks):

            async def empty() -> bool:
                return (await tasks.manager.statistics("tasks.export")).measure.depth == 0

            await until(empty, "both bells to be heard")
        ended = await tasks.get_task(cancelled)
        assert (ended.state, ended.attempt, ran) == (TaskState.CANCELLED, 0, [])
        with pytest.raises(TaskFailed, match="Cancelled: no longer needed"):
            await tasks.get_result(cancelled)
        with pytest.raises(NotFound):
            await tasks.cancel_task("nothing")


async def test_running_coroutine_is_interrupted_by_a_cancel_from_elsewhere(
    task_broker: BrokerUnderTest,
) -> None:
    began, interrupted = asyncio.Event(), asyncio.Event()

    async def work(context: TaskContext) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            interrupted.set()
            raise

    async with connected(task_broker) as tasks, connected(task_broker) as others:
        tasks.add_handler("model_training", work)
        async with working(tasks) as worker:
            task_id = await tasks.submit_task("model_training")
            await asyncio.wait_for(began.wait(), 5.0)
            assert await others.cancel_task(task_id) is True
            await asyncio.wait_for(interrupted.wait(), 2.0)

            async def free() -> bool:
                return worker.workers["model_training"].statistics.n_in_hand == 0

            await until(free, "the worker to be free")
        depth = (await others.manager.statistics()).measure.depth

        assert (await others.get_task(task_id)).state is TaskState.CANCELLED
        assert depth == 0


async def test_plain_function_that_is_cancelled_stops_at_its_checkpoint_or_its_result_is_refused(
    task_broker: BrokerUnderTest,
) -> None:
    seen: dict[str, str] = {}
    release = threading.Event()

    def looks(context: TaskContext) -> None:
        try:
            while True:
                context.progress(1, 2, "looks")
                release.wait(0.01)
        except BaseException as error:
            seen["looks"] = type(error).__name__
            raise

    def does_not_look(context: TaskContext) -> str:
        release.wait(10.0)
        seen["does not"] = str(context.is_cancelled)
        return "late"

    async with connected(task_broker) as tasks:
        tasks.add_handler("export", looks)
        tasks.add_handler("import", does_not_look)
        async with working(tasks):
            ids = [await tasks.submit_task("export"), await tasks.submit_task("import")]

            async def both_run() -> bool:
                return all([(await tasks.get_task(each)).state is TaskState.RUNNING for each in ids])

            await until(both_run, "both to run")
            for task_id in ids:
                assert await tasks.cancel_task(task_id) is True

            async def stopped() -> str | None:
                return seen.get("looks")

            await until(stopped, "the one that looks")
            release.set()

        assert seen == {"looks": "JobCancelled", "does not": "True"}
        states = [(await tasks.get_task(each)).state for each in ids]
        assert states == [TaskState.CANCELLED, TaskState.CANCELLED]


async def test_time_limit_interrupts_a_coroutine_and_counts_as_a_failed_try(
    task_broker: BrokerUnderTest,
) -> None:
    async def hang(context: TaskContext) -> None:
        await asyncio.Event().wait()

    def spin(context: TaskContext) -> None:
        while True:
            context.checkpoint()

    async with connected(task_broker) as tasks:
        tasks.add_handler("export", hang)
        tasks.add_handler("import", spin)
        retry = RetryPolicy(max_retries=1, backoff_s=0.0)
        async with working(tasks):
            for task_type in ("export", "import"):
                task_id = await tasks.submit_task(task_type, time_limit_s=0.05, retry=retry)
                ended = await tasks.wait_for_end(task_id, 5.0)

                assert (ended.state, ended.attempt, ended.n_failed) == (TaskState.FAILED, 2, 1)
                assert ended.error is not None
                assert ended.error.type == "TimeLimitExceeded"
                assert "time limit of 0.05 s" in ended.error.message


async def test_task_waits_for_its_time(task_broker: BrokerUnderTest) -> None:
    async with connected(task_broker) as tasks:
        tasks.add_handler("export", echo)
        delayed = await tasks.submit_task("export", delay_s=0.3)
        at = await tasks.submit_task("export", at=datetime.now(UTC) + timedelta(seconds=0.3))
        past = await tasks.submit_task("export", at=datetime.now(UTC) - timedelta(days=1))
        n_at_once = await TaskWorker(tasks).run_once()

        assert n_at_once == 1
        assert [(await tasks.get_task(each)).state for each in (delayed, at, past)] == [
            TaskState.WAITING, TaskState.WAITING, TaskState.SUCCEEDED,
        ]  # fmt: skip
        async with working(tasks):
            for task_id in (delayed, at):
                ended = await tasks.wait_for_end(task_id, 5.0)
                assert ended.state is TaskState.SUCCEEDED
                assert ended.started_at is not None
                assert ended.started_at >= ended.run_at - timedelta(milliseconds=5)


async def test_repeating_task_keeps_its_slots_whatever_becomes_of_a_run(task_broker: BrokerUnderTest) -> None:
    starts: list[tuple[int, datetime]] = []

    async def work(context: TaskContext) -> int:
        starts.append((context.n_runs, datetime.now(UTC)))
        if context.n_runs == 0:
            await asyncio.sleep(0.35)  # past the slots of two runs
        if context.n_runs == 1:
            raise Reject("this run failed")
        return context.n_runs

    async with connected(task_broker) as tasks:
        tasks.add_handler("cleanup", work)
        async with working(tasks):
            task_id = await tasks.submit_task("cleanup", every_s=0.2, n_runs=3)
            ended = await until(lambda: _final(tasks, task_id), "three runs")

        assert [n for n, _ in starts] == [0, 1, 2]
        assert (ended.state, ended.n_runs, ended.attempt, ended.n_failed) == (TaskState.SUCCEEDED, 3, 3, 0)
        assert await tasks.get_result(task_id) == 2
        waits_s = [(at - ended.created_at).total_seconds() for _, at in starts]
        assert waits_s[1] >= 0.39  # the slot at 0.2 passed while the first run took its time
        assert waits_s[2] >= 0.59


async def test_cancel_ends_a_repeating_task(task_broker: BrokerUnderTest) -> None:
    async with connected(task_broker) as tasks:
        tasks.add_handler("cleanup", echo)
        async with working(tasks):
            task_id = await tasks.submit_task("cleanup", every_s=0.1)
            assert (await tasks.get_result(task_id, wait_s=5.0))["attempt"] == 1
            assert await tasks.cancel_task(task_id) is True
            ended = await tasks.get_task(task_id)

            async def bell_is_gone() -> bool:
                return (await tasks.manager.statistics()).measure.depth == 0

            await until(bell_is_gone, "its bell to be heard")
        assert (ended.state, await tasks.get_task(task_id)) == (TaskState.CANCELLED, ended)


async def _final(tasks: Tasks, task_id: str) -> Any:
    task = await tasks.get_task(task_id)
    return task if task.state.is_final else None


async def test_child_runs_after_all_its_parents(task_broker: BrokerUnderTest) -> None:
    order = []

    async def note(context: TaskContext) -> None:
        order.append(context.arguments["name"])

    async with connected(task_broker) as tasks:
        tasks.add_handler("export", note)
        done = await tasks.submit_task("export", {"name": "done"})
        await TaskWorker(tasks).run_once()
        one = await tasks.submit_task("export", {"name": "one"}, delay_s=0.1)
        two = await tasks.submit_task("export", {"name": "two"})
        child = await tasks.submit_task(
            "export", {"name": "child"}, after=[done, one, two, one], priority=255
        )
        grandchild = await tasks.submit_task("export", {"name": "grandchild"}, after=child)
        waiting = await tasks.get_task(child)
        async with working(tasks):
            ended = await tasks.wait_for_end(grandchild, 5.0)

    assert (waiting.state, waiting.n_waiting_for, waiting.after) == (TaskState.WAITING, 2, (done, one, two))
    assert order == ["done", "two", "one", "child", "grandchild"]
    assert ended.state is TaskState.SUCCEEDED


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
async def test_child_of_a_parent_without_success_never_runs_and_says_why(
    task_broker: BrokerUnderTest, how: str
) -> None:
    async with connected(task_broker) as tasks:
        tasks.add_handler("import", fail)
        tasks.add_handler("export", echo)
        parent = await tasks.submit_task("import", retry=RetryPolicy(max_retries=0))
        other = await tasks.submit_task("export", delay_s=600.0)
        child = await tasks.submit_task("export", after=[other, parent])
        grandchild = await tasks.submit_task("export", after=[child, parent])
        if how == "is cancelled":
            await tasks.cancel_task(parent)
        await TaskWorker(tasks).run_once()
        late = await tasks.submit_task("export", after=[parent])
        found = [await tasks.get_task(each) for each in (child, grandchild, late)]

    assert [(each.state, each.attempt) for each in found] == [(TaskState.PARENT_FAILED, 0)] * 3
    ended = "failed" if how == "fails" else "was cancelled"
    assert found[0].error is not None
    assert found[0].error.message == f"it was to follow task {parent}, which {ended}"


async def test_same_key_gives_the_task_that_exists(task_broker: BrokerUnderTest) -> None:
    async with connected(task_broker) as tasks, connected(task_broker) as others:
        tasks.add_handler("export", echo)
        await tasks.announce(["export"])
        first = await tasks.submit_task("export", {"a": 1, "b": 2}, deduplication_key="k")
        again = await others.submit_task("export", {"b": 2, "a": 1}, deduplication_key="k")
        other = await others.submit_task("export", {"a": 1, "b": 2}, deduplication_key="l")
        await TaskWorker(tasks).run_once()
        ended = await others.submit_task("export", {"a": 1, "b": 2}, deduplication_key="k")

        assert first == again == ended != other
        with pytest.raises(IdempotencyMismatch, match=f"belongs to task {first}"):
            await others.submit_task("export", {"a": 2}, deduplication_key="k")


async def test_ended_task_and_its_key_are_forgotten_after_keep_s(task_broker: BrokerUnderTest) -> None:
    async with connected(task_broker, keep_s=0.1) as tasks:
        tasks.add_handler("export", echo)
        first = await tasks.submit_task("export", deduplication_key="k")
        waiting = await tasks.submit_task("export", delay_s=600.0)
        await TaskWorker(tasks).run_once()

        async def forgotten() -> bool:
            try:
                await tasks.get_task(first)
            except NotFound:
                return True
            return False

        await until(forgotten, "the task to be forgotten")
        again = await tasks.submit_task("export", deduplication_key="k")

        assert again != first
        assert [each.id for each in await tasks.list_tasks()] == [again, waiting]
        with pytest.raises(NotFound, match="after: there is no task"):
            await tasks.submit_task("export", after=[first])


async def test_tasks_are_listed_newest_first_by_state_and_type(task_broker: BrokerUnderTest) -> None:
    async with connected(task_broker) as tasks:
        tasks.add_handler("export", echo)
        tasks.add_handler("import", echo)
        first = await tasks.submit_task("export")
        second = await tasks.submit_task("import", delay_s=600.0)
        await TaskWorker(tasks).run_once()
        third = await tasks.submit_task("import")

        assert {each.id for each in await tasks.list_tasks()} == {third, second, first}
        assert [each.id for each in await tasks.list_tasks(state="succeeded")] == [first]
        assert {each.id for each in await tasks.list_tasks(task_type="import")} == {third, second}
        assert len(await tasks.list_tasks(limit=2)) == 2


async def test_type_without_a_handler_anywhere_is_refused_until_some_process_has_one(
    task_broker: BrokerUnderTest,
) -> None:
    async with connected(task_broker) as web, connected(task_broker) as elsewhere:
        elsewhere.add_handler("export", echo)
        with pytest.raises(NoHandler, match=r"no process has a handler for 'exprot'.*known by name are"):
            await web.submit_task("exprot")
        with pytest.raises(NoHandler, match="register one with add_handler and start a TaskWorker"):
            await web.submit_task("export")
        early = await web.submit_task("export", even_without_handler=True)
        await TaskWorker(elsewhere).run_once()
        late = await web.submit_task("export")

        assert (await web.get_task(early)).state is TaskState.SUCCEEDED
        assert (await web.get_task(late)).state is TaskState.QUEUED


async def test_check_of_the_handler_refuses_arguments_at_the_door(task_broker: BrokerUnderTest) -> None:
    def check(arguments: Any) -> None:
        if "path" not in arguments:
            raise InvalidInput("path: is missing")

    async with connected(task_broker) as tasks:
        tasks.add_handler("export", echo, check=check)
        with pytest.raises(InvalidInput, match="path: is missing"):
            await tasks.submit_task("export", {})

        assert await tasks.list_tasks() == []


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ("x" * 2_000, "is 2,013 bytes of JSON; at most 1,024 are allowed"),
        ({1, 2}, "holds a set"),
        (float("nan"), "holds nan"),
    ],
)
async def test_result_that_cannot_be_kept_fails_the_task_at_once(
    task_broker: BrokerUnderTest, result: object, why: str
) -> None:
    async def give(context: TaskContext) -> object:
        return result

    codec = Codec(limits=CodecLimits(max_bytes=1_024))
    async with connected(task_broker, codec=codec) as tasks:
        tasks.add_handler("export", give)
        task_id = await tasks.submit_task("export", retry=AT_ONCE)
        await TaskWorker(tasks).run_once()
        ended = await tasks.get_task(task_id)

    assert (ended.state, ended.attempt) == (TaskState.FAILED, 1)
    assert ended.error is not None
    assert ended.error.type == "InvalidResult"
    assert why in ended.error.message


async def test_arguments_results_progress_and_errors_are_encrypted_with_the_keys(
    task_broker: BrokerUnderTest,
) -> None:
    async def work(context: TaskContext) -> str:
        context.progress(1, 1, "hush")
        if context.attempt == 1:
            raise ValueError("hush")
        return "hush"

    codec = Codec(keys=[Fernet.generate_key().decode()])
    async with connected(task_broker, codec=codec) as tasks, connected(task_broker) as without_key:
        tasks.add_handler("export", work)
        task_id = await tasks.submit_task("export", {"secret": "hush"}, retry=AT_ONCE)
        await TaskWorker(tasks).run_once()
        (record,) = await tasks.records.find([task_id])
        blind = await without_key.get_task(task_id)

        assert record is not None
        assert b"hush" not in record.body + record.outcome + record.progress
        assert await tasks.get_result(task_id) == "hush"
        assert (blind.state, blind.arguments, blind.progress) == (TaskState.SUCCEEDED, {}, None)


async def test_task_survives_its_worker_and_counts_what_was_lost(task_broker: BrokerUnderTest) -> None:
    async with connected(task_broker, lease_s=0.1) as tasks:
        tasks.add_handler("export", echo)
        task_id = await tasks.submit_task("export", max_lost=3)
        doomed = await tasks.submit_task("export", max_lost=1)
        lost = {}
        for _ in range(2):  # a worker that begins both, and is gone
            (delivery,) = await tasks.manager.receive("tasks.export")
            started = await tasks.records.start(delivery.message.payload["task"], "gone")
            lost[delivery.message.payload["task"]] = started.record
        async with working(tasks):
            ended = [await tasks.wait_for_end(each, 5.0) for each in (task_id, doomed)]
        assert lost[task_id] is not None
        late = await tasks.records.finish(end(task_id, lost[task_id].attempt, TryOutcome.SUCCEEDED, b"late"))

        assert [(each.state, each.attempt, each.n_lost) for each in ended] == [
            (TaskState.SUCCEEDED, 2, 1), (TaskState.FAILED, 1, 1),
        ]  # fmt: skip
        assert ended[1].error is not None
        assert ended[1].error.type == "WorkerDied"
        assert late.what.value == "lost"
        assert (await tasks.get_result(task_id))["attempt"] == 2


async def test_end_of_an_attempt_that_was_taken_over_is_refused_while_the_other_runs(
    task_broker: BrokerUnderTest,
) -> None:
    async with connected(task_broker) as tasks:
        tasks.add_handler("export", echo)
        task_id = await tasks.submit_task("export")
        for n in (1, 2):
            started = await tasks.records.start(task_id, f"worker {n}")
            assert started.record is not None
            assert (started.record.attempt, started.record.n_lost) == (n, n - 1)

        async def finish(attempt: int, outcome: TryOutcome) -> FinishedAs:
            done = await tasks.records.finish(end(task_id, attempt, outcome))
            return done.what

        beats = [Beat(task_id=task_id, attempt=attempt, progress=b"x") for attempt in (1, 2)]
        assert await tasks.records.beat(beats) == [False, True]
        for outcome in TryOutcome:
            assert await finish(1, outcome) is FinishedAs.LOST
        assert (await tasks.get_task(task_id)).state is TaskState.RUNNING
        assert await finish(2, TryOutcome.SUCCEEDED) is FinishedAs.ENDED
        assert await finish(2, TryOutcome.FAILED) is FinishedAs.LOST
        assert await tasks.cancel_task(task_id) is False
        assert (await tasks.get_task(task_id)).state is TaskState.SUCCEEDED


async def test_of_many_cancels_and_one_end_exactly_one_wins(task_broker: BrokerUnderTest) -> None:
    async with connected(task_broker) as tasks, connected(task_broker) as others:
        tasks.add_handler("export", echo)
        for n in range(30):
            task_id = await tasks.submit_task("export")
            await tasks.records.start(task_id, "worker")
            ending = tasks.records.finish(end(task_id, 1, TryOutcome.SUCCEEDED))
            cancels = [side.cancel_task(task_id) for side in (tasks, others, tasks, others)]
            contenders: list[Any] = [*cancels]
            contenders.insert(n % 5, ending)
            answers = await asyncio.gather(*contenders)

            finished = answers.pop(n % 5).what is FinishedAs.ENDED
            assert [finished, *answers].count(True) == 1
            ended = (await others.get_task(task_id)).state
            assert ended is (TaskState.SUCCEEDED if finished else TaskState.CANCELLED)


async def test_answer_to_a_retry_that_was_lost_leaves_the_task_its_bell(task_broker: BrokerUnderTest) -> None:
    from pynomaly_tasks.errors import BrokerUnavailable

    async def fail_once(context: TaskContext) -> int:
        if context.attempt == 1:
            raise ValueError("once")
        return context.attempt

    async with connected(task_broker) as tasks:
        finish, n_calls = tasks.records.finish, 0

        async def answer_is_lost(*arguments: Any, **options: Any) -> Any:
            nonlocal n_calls
            n_calls += 1
            answer = await finish(*arguments, **options)
            if n_calls == 1:
                raise BrokerUnavailable("the answer was lost")
            return answer

        tasks.records.finish = answer_is_lost  # type: ignore[method-assign]
        tasks.add_handler("export", fail_once)
        async with working(tasks):
            task_id = await tasks.submit_task("export", retry=AT_ONCE)

            assert await tasks.get_result(task_id, wait_s=5.0) == 2


async def test_deleted_queue_of_tasks_is_made_again(task_broker: BrokerUnderTest) -> None:
    async with connected(task_broker) as tasks:
        tasks.add_handler("export", echo)
        await tasks.submit_task("export")
        await tasks.manager.delete_queue("tasks.export")
        task_id = await tasks.submit_task("export")
        await TaskWorker(tasks).run_once()

        assert (await tasks.get_task(task_id)).state is TaskState.SUCCEEDED


async def test_message_that_is_no_bell_becomes_a_dead_letter(task_broker: BrokerUnderTest) -> None:
    async with connected(task_broker) as tasks:
        tasks.add_handler("export", echo)
        await tasks.announce(["export"])
        await tasks.manager.send("tasks.export", {"no": "task"})
        await TaskWorker(tasks).run_once()
        (letter,) = await tasks.manager.dead_letters.list_letters("tasks.export")

        assert letter.reason is Reason.HANDLER_ERROR
        assert "submit_task submits them" in letter.error


async def test_worker_that_stops_finishes_what_runs_and_starts_nothing_more(
    task_broker: BrokerUnderTest,
) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def work(context: TaskContext) -> str:
        began.set()
        await go_on.wait()
        return "done"

    async with connected(task_broker) as tasks:
        tasks.add_handler("export", work)
        first, second = await tasks.submit_task("export"), await tasks.submit_task("export")
        worker = TaskWorker(tasks, concurrency=1)
        running = asyncio.create_task(worker.run(handle_signals=False))
        await asyncio.wait_for(began.wait(), 5.0)
        worker.stop()
        go_on.set()
        await asyncio.wait_for(running, 5.0)

        assert (await tasks.get_task(first)).state is TaskState.SUCCEEDED
        assert (await tasks.get_task(second)).state is TaskState.QUEUED


async def test_broker_that_keeps_no_tasks_refuses_them_and_names_those_that_do(
    broker: BrokerUnderTest,
) -> None:
    async with broker.manager() as manager:
        if manager.backend.capabilities.tasks is Support.ABSENT:
            with pytest.raises(NotSupported, match=r"has no tasks; these have it: memory, redis_streams"):
                Tasks(manager)
        else:
            assert await Tasks(manager).list_tasks() == []


async def test_result_of_a_task_that_runs_is_waited_for_no_longer_than_asked(
    task_broker: BrokerUnderTest,
) -> None:
    async with connected(task_broker) as tasks:
        tasks.add_handler("export", echo)
        task_id = await tasks.submit_task("export", delay_s=600.0)

        with pytest.raises(TimeoutError, match=r"is waiting, 0.05 s after it was asked for"):
            await tasks.get_result(task_id, wait_s=0.05)
        with pytest.raises(NotFound, match="there is no task 'nothing'"):
            await tasks.get_result("nothing")
