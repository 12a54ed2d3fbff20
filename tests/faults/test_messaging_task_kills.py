"""Workers that hold tasks are killed: each task ends once, what was lost is counted, children follow."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.messaging import QueueManager
from pynomaly_tasks.messaging.backends.redis_streams.backend import RedisStreamsBackend
from pynomaly_tasks.messaging.tasks import Task, Tasks, TaskState
from support.processes import Program, Programs
from support.waiting import wait_until

WORKER = Path(__file__).parents[1] / "support" / "messaging_task_worker.py"
T = TypeVar("T")


def start(server: RedisServer, programs: Programs) -> Program:
    return programs.python(
        WORKER, f"{server.url}/0", "kills", ready="^ready", env={"PYTHONPATH": str(WORKER.parents[2])}
    )


def with_tasks(server: RedisServer, action: Callable[[Tasks], Awaitable[T]]) -> T:
    async def run() -> T:
        async with QueueManager(RedisStreamsBackend(f"{server.url}/0", namespace="kills")) as manager:
            return await action(Tasks(manager, lease_s=1.0))

    return asyncio.run(run())


def noted(server: RedisServer, key: str) -> list[str]:
    with server.client() as client:
        return [each.decode() for each in client.lrange(key, 0, -1)]


def test_task_of_a_killed_worker_is_run_by_another_and_ends_once(
    own_redis: RedisServer, programs: Programs
) -> None:
    async def submit(tasks: Tasks) -> tuple[str, str]:
        task_id = await tasks.submit_task("import", even_without_handler=True)
        return task_id, await tasks.submit_task("export", after=[task_id], even_without_handler=True)

    task_id, child = with_tasks(own_redis, submit)
    first = start(own_redis, programs)
    wait_until(lambda: noted(own_redis, "begun") == [f"{task_id}:1"], 15.0, "the first attempt")
    second = start(own_redis, programs)
    first.kill()

    async def ended(tasks: Tasks) -> list[Task]:
        return [await tasks.wait_for_end(each, 20.0) for each in (task_id, child)]

    task, follower = with_tasks(own_redis, ended)

    assert (task.state, task.attempt, task.n_lost) == (TaskState.SUCCEEDED, 2, 1)
    assert noted(own_redis, "begun") == [f"{task_id}:1", f"{task_id}:2"]
    assert (follower.state, noted(own_redis, "done")) == (TaskState.SUCCEEDED, [f"{child}:1"])
    assert second.is_running()


def test_paused_worker_s_late_end_is_refused(own_redis: RedisServer, programs: Programs) -> None:
    async def submit(tasks: Tasks) -> str:
        return await tasks.submit_task("import", even_without_handler=True)

    task_id = with_tasks(own_redis, submit)
    first = start(own_redis, programs)
    wait_until(lambda: noted(own_redis, "begun") == [f"{task_id}:1"], 15.0, "the first attempt")
    first.pause()
    start(own_redis, programs)

    async def ended(tasks: Tasks) -> Task:
        return await tasks.wait_for_end(task_id, 20.0)

    before = with_tasks(own_redis, ended)
    first.resume()
    first.wait_for_output("message_lost|task_interrupted|message_not_settled", 15.0)

    assert (before.state, before.attempt, before.n_lost) == (TaskState.SUCCEEDED, 2, 1)
    assert with_tasks(own_redis, ended) == before


def test_records_and_bells_survive_a_restart_of_the_broker(
    own_redis: RedisServer, programs: Programs
) -> None:
    async def submit(tasks: Tasks) -> list[str]:
        return [
            await tasks.submit_task("export", {"n": n}, delay_s=0.5, even_without_handler=True)
            for n in range(50)
        ]

    ids = with_tasks(own_redis, submit)
    worker = start(own_redis, programs)
    own_redis.kill()
    own_redis.start()

    async def ended(tasks: Tasks) -> Counter[TaskState]:
        found = await asyncio.gather(*(tasks.wait_for_end(each, 20.0) for each in ids))
        return Counter(each.state for each in found)

    assert with_tasks(own_redis, ended) == {TaskState.SUCCEEDED: 50}
    assert worker.is_running()


def _kill_again_and_again(
    server: RedisServer, programs: Programs, *, n_tasks: int, n_kills: int, seed: int
) -> None:
    chance = random.Random(seed)

    async def submit(tasks: Tasks) -> list[str]:
        ids: list[str] = []
        for n in range(n_tasks):
            # Each third one follows the one before it.
            after = [ids[-1]] if n % 3 == 2 else []
            task_id = await tasks.submit_task(
                "export", {"n": n}, after=after, max_lost=1_000, even_without_handler=True
            )
            ids.append(task_id)
        return ids

    async def depth(tasks: Tasks) -> int:
        return (await tasks.manager.statistics("tasks.export")).measure.depth

    ids = with_tasks(server, submit)
    workers = [start(server, programs) for _ in range(2)]
    for kill in range(n_kills):
        target = (kill + 1) * n_tasks // (n_kills + 1)
        wait_until(lambda target=target: len(noted(server, "done")) >= target, 60.0, f"{target} tasks")
        at = chance.randrange(2)
        workers[at].kill()
        workers[at] = start(server, programs)
    wait_until(lambda: with_tasks(server, depth) == 0, 60.0, f"no bell to be left (seed {seed})")

    async def shown(tasks: Tasks) -> list[Task]:
        return [await tasks.get_task(each) for each in ids]

    ended = with_tasks(server, shown)
    runs = Counter(each.partition(":")[0] for each in noted(server, "done"))
    n_lost = sum(each.n_lost for each in ended)
    n_twice = sum(times > 1 for times in runs.values())

    assert {each.state for each in ended} == {TaskState.SUCCEEDED}
    assert set(runs) == set(ids)
    assert all(each.attempt == each.n_lost + 1 for each in ended)
    assert n_twice <= n_lost <= 3 * n_kills
    print(f"seed {seed}: {n_tasks} tasks, {n_kills} kills, {n_lost} attempts lost, {n_twice} effects twice")


def test_killed_workers_lose_no_task(own_redis: RedisServer, programs: Programs) -> None:
    _kill_again_and_again(own_redis, programs, n_tasks=600, n_kills=3, seed=random.randrange(10**6))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_killed_workers_lose_no_task(own_redis: RedisServer, programs: Programs) -> None:
    _kill_again_and_again(own_redis, programs, n_tasks=9_000, n_kills=30, seed=random.randrange(10**6))
