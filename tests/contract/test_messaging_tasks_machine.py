"""Any order of submissions, starts, ends, cancels and dead workers, beside a model of a few lines.

Each task ends exactly once; a cancel and an end have one winner; a lost attempt's end is refused; children
run after all parents succeeded, or say that one did not; each task that may run has exactly one bell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import IdempotencyMismatch, InvalidRequest, TaskFailed
from pynomaly_tasks.messaging import Delivery, QueueManager
from pynomaly_tasks.messaging.task_records import FinishedAs, Ring, TryEnd, TryOutcome
from pynomaly_tasks.messaging.tasks import Tasks, TaskState
from pynomaly_tasks.messaging.tasks.task import TaskError, pack, pack_error
from support.messaging import BrokerUnderTest, MemoryUnderTest, ServerUnderTest

MAX_LOST = 2


@dataclass
class Known:
    """What the model knows of a task."""

    id: str
    parents: list[Known]
    repeats: bool
    state: str = "pending"  #: pending, running, or how it ended
    attempt: int = 0
    n_lost: int = 0
    n_ends: int = 0
    children: list[Known] = field(default_factory=list)

    @property
    def is_live(self) -> bool:
        return self.state in ("pending", "running")

    @property
    def may_run(self) -> bool:
        return self.is_live and all(parent.state == "succeeded" for parent in self.parents)

    def end(self, state: str) -> None:
        assert self.is_live
        self.state = state
        self.n_ends += 1
        for child in self.children if state != "succeeded" else ():
            if child.is_live:
                child.end("parent_failed")


@dataclass
class Held:
    """A bell that a worker holds, and the attempt that it began."""

    delivery: Delivery
    known: Known
    attempt: int


class TaskMachine(RuleBasedStateMachine):
    """Two processes on one broker; subclasses bring it."""

    new_broker: Callable[[], BrokerUnderTest]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.broker = type(self).new_broker()
        self.managers: list[QueueManager] = [self.run(self.broker.manager().__aenter__()) for _ in range(2)]
        self.sides = [Tasks(manager, lease_s=600.0) for manager in self.managers]
        self.known: dict[str, Known] = {}
        self.keys: dict[str, tuple[Known, int]] = {}
        self.held: list[Held] = []
        self.lost: list[Held] = []  #: attempts of workers that died, or were thought dead

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    def submit(self, side: int, **options: Any) -> str:
        return self.run(
            self.sides[side].submit_task("export", even_without_handler=True, max_lost=MAX_LOST, **options)
        )

    def add(self, task_id: str, parents: list[Known], *, repeats: bool = False) -> Known:
        known = self.known[task_id] = Known(task_id, parents, repeats)
        for parent in parents:
            parent.children.append(known)
        if any(not parent.is_live and parent.state != "succeeded" for parent in parents):
            known.end("parent_failed")
        return known

    @rule(side=st.integers(0, 1), priority=st.sampled_from([0, 1, 255]))
    def submit_one(self, side: int, priority: int) -> None:
        self.add(self.submit(side, priority=priority), [])

    @rule(side=st.integers(0, 1))
    def submit_repeating(self, side: int) -> None:
        self.add(self.submit(side, every_s=86_400.0), [], repeats=True)

    @precondition(lambda self: self.known)
    @rule(side=st.integers(0, 1), data=st.data())
    def submit_child(self, side: int, data: st.DataObject) -> None:
        numbers = st.lists(st.integers(0, len(self.known) - 1), min_size=1, max_size=3, unique=True)
        parents = [list(self.known.values())[n] for n in data.draw(numbers)]
        if any(parent.repeats and parent.is_live for parent in parents):
            with pytest.raises(InvalidRequest, match="repeats"):
                self.submit(side, after=[parent.id for parent in parents])
        else:
            self.add(self.submit(side, after=[parent.id for parent in parents]), parents)

    @rule(side=st.integers(0, 1), key=st.sampled_from("ab"), n=st.integers(0, 1))
    def submit_under_a_key(self, side: int, key: str, n: int) -> None:
        if key not in self.keys:
            task_id = self.submit(side, arguments={"n": n}, deduplication_key=key)
            self.keys[key] = (self.add(task_id, []), n)
        elif self.keys[key][1] == n:
            assert self.submit(side, arguments={"n": n}, deduplication_key=key) == self.keys[key][0].id
        else:
            with pytest.raises(IdempotencyMismatch):
                self.submit(side, arguments={"n": n}, deduplication_key=key)

    @rule(side=st.integers(0, 1))
    def hear_a_bell(self, side: int) -> None:
        """As a worker does: what may run is started, what ended is forgotten, what is not due waits."""
        if "tasks.export" not in self.run(self.managers[side].list_queues()):
            return
        for delivery in self.run(self.managers[side].receive("tasks.export")):
            known = self.known[delivery.message.payload["task"]]
            started = self.run(self.sides[side].records.start(known.id, f"side {side}"))
            if not known.is_live:
                assert started.what is Ring.ENDED
                self.run(delivery.ack())
                continue
            assert known.may_run
            if known.state == "running":
                known.n_lost += 1
                if known.n_lost == MAX_LOST:
                    self.end_run(known, "failed")
                    assert started.what is (Ring.LATER if known.is_live else Ring.ENDED)
                    self.run(delivery.give_back(delay_s=started.delay_s) if known.is_live else delivery.ack())
                    continue
            known.state = "running"
            known.attempt += 1
            assert (started.what, started.record.attempt) == (Ring.STARTED, known.attempt)
            self.held.append(Held(delivery, known, known.attempt))

    def end_run(self, known: Known, state: str) -> None:
        if known.repeats:
            known.state, known.n_lost = "pending", 0
        else:
            known.end(state)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), outcome=st.sampled_from(TryOutcome))
    def end_an_attempt(self, data: st.DataObject, outcome: TryOutcome) -> None:
        held = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        is_ours = held.known.state == "running" and held.known.attempt == held.attempt
        finished = self.finish(held, outcome)
        if not is_ours:
            assert finished.what is FinishedAs.LOST
            self.run(held.delivery.ack())
        elif outcome is TryOutcome.RETRY:
            assert finished.what is FinishedAs.AGAIN
            held.known.state = "pending"
            self.run(held.delivery.give_back())
        else:
            self.end_run(held.known, outcome.value)
            assert finished.what is (FinishedAs.AGAIN if held.known.repeats else FinishedAs.ENDED)
            again = held.delivery.give_back(delay_s=finished.delay_s)
            self.run(again if held.known.repeats else held.delivery.ack())
            if not held.known.repeats:
                again.close()

    def finish(self, held: Held, outcome: TryOutcome) -> Any:
        tasks, task_id = self.sides[0], held.known.id
        report = pack(tasks.codec, task_id, {"result": held.attempt})
        if outcome is not TryOutcome.SUCCEEDED:
            report = pack_error(tasks.codec, task_id, TaskError(type="E", message="no"))
        end = TryEnd(task_id=task_id, attempt=held.attempt, outcome=outcome, report=report)
        return self.run(tasks.records.finish(end))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def worker_dies(self, data: st.DataObject) -> None:
        held = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.run(held.delivery.give_back())  # what the end of its lease does, at once
        self.lost.append(held)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def worker_dies_and_another_takes_over(self, data: st.DataObject) -> None:
        self.worker_dies(data)
        self.hear_a_bell(1)

    def is_late(self, held: Held) -> bool:
        """Not while nobody has begun it again: it would be in time."""
        return held.known.state != "running" or held.known.attempt != held.attempt

    @precondition(lambda self: any(map(self.is_late, self.lost)))
    @rule(data=st.data(), outcome=st.sampled_from(TryOutcome))
    def thought_dead_it_ends_late(self, data: st.DataObject, outcome: TryOutcome) -> None:
        late = [held for held in self.lost if self.is_late(held)]
        held = late[data.draw(st.integers(0, len(late) - 1))]
        before = self.run(self.sides[0].get_task(held.known.id))
        assert self.finish(held, outcome).what is FinishedAs.LOST
        assert self.run(self.sides[0].get_task(held.known.id)) == before

    @precondition(lambda self: self.known)
    @rule(side=st.integers(0, 1), data=st.data())
    def cancel(self, side: int, data: st.DataObject) -> None:
        known = list(self.known.values())[data.draw(st.integers(0, len(self.known) - 1))]
        assert self.run(self.sides[side].cancel_task(known.id)) is known.is_live
        if known.is_live:
            known.end("cancelled")

    @precondition(lambda self: self.held)
    @rule()
    def hearts_beat(self) -> None:
        from pynomaly_tasks.messaging.task_records import Beat

        beats = [Beat(task_id=each.known.id, attempt=each.attempt) for each in self.held]
        expected = [e.known.state == "running" and e.known.attempt == e.attempt for e in self.held]
        assert self.run(self.sides[0].records.beat(beats)) == expected

    @rule()
    def server_forgets_its_scripts(self) -> None:
        if isinstance(self.broker, ServerUnderTest):
            self.run(self.managers[0].backend._ask("SCRIPT", "FLUSH"))  # type: ignore[attr-defined]

    @invariant()
    def records_say_what_the_model_says(self) -> None:
        found = {each.id: each for each in self.run(self.sides[1].list_tasks(limit=10_000))}
        assert found.keys() == self.known.keys()
        for known in self.known.values():
            task = found[known.id]
            state = known.state
            if state == "pending":
                is_waiting = not known.may_run or task.n_runs > 0
                state = "waiting" if is_waiting else "queued"
            assert (task.state, task.attempt) == (state, known.attempt)
            assert task.state.is_final is (known.n_ends == 1)
            n_waits = sum(parent.is_live for parent in known.parents) if known.is_live else 0
            assert task.n_waiting_for == n_waits

    @invariant()
    def what_may_run_has_its_bell(self) -> None:
        if not self.known or "tasks.export" not in self.run(self.managers[0].list_queues()):
            return
        depth = self.run(self.managers[0].statistics("tasks.export")).measure.depth
        assert depth >= sum(known.may_run for known in self.known.values())

    def teardown(self) -> None:
        try:
            for held in self.held:
                self.run(held.delivery.give_back())
            self.held = []
            n_heard = 0
            while any(known.may_run and not known.repeats for known in self.known.values()):
                n_heard += 1
                assert n_heard <= 10 * len(self.known) + 10, "a task that may run has no bell"
                self.hear_a_bell(0)
                for held in self.held:
                    self.end_run(held.known, "succeeded")
                    finished = self.finish(held, TryOutcome.SUCCEEDED)
                    self.run(
                        held.delivery.give_back(delay_s=finished.delay_s)
                        if held.known.repeats
                        else held.delivery.ack()
                    )
                self.held = []
            self.records_say_what_the_model_says()
            for known in self.known.values():
                if known.state == "succeeded":
                    assert self.run(self.sides[1].get_result(known.id)) == known.attempt
                elif not known.is_live:
                    with pytest.raises(TaskFailed):
                        self.run(self.sides[1].get_result(known.id))
                assert known.n_ends == (0 if known.is_live else 1)
                assert known.repeats or not known.is_live or known.parents
        finally:
            for manager in self.managers:
                self.run(manager.backend.close())
            self.runner.close()


def test_memory_tasks_do_what_the_model_does() -> None:
    class Machine(TaskMachine):
        new_broker = staticmethod(MemoryUnderTest)

    run_state_machine_as_test(Machine, settings=settings(max_examples=40, stateful_step_count=40))


def test_redis_tasks_do_what_the_model_does(redis_server: RedisServer) -> None:
    class Machine(TaskMachine):
        new_broker = staticmethod(lambda: ServerUnderTest("redis_streams", f"{redis_server.url}/0"))

    run_state_machine_as_test(Machine, settings=settings(max_examples=40, stateful_step_count=40))


def test_state_of_a_task_is_final_where_nothing_follows() -> None:
    assert [state for state in TaskState if not state.is_final] == [
        TaskState.WAITING,
        TaskState.QUEUED,
        TaskState.RUNNING,
    ]
