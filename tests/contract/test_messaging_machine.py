"""Any order of sends, receives, settlements, dead consumers and reconnections, beside a model of a few lines.

Nothing is lost, nothing is acknowledged twice, order holds within equal priority, and the depth is what
was sent less what is done, after each step.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
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

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.embedded.redis_server import RedisServer
from pynomaly_tasks.errors import LeaseLost
from pynomaly_tasks.messaging import Delivery, Kind, QueueManager, QueueOptions, Reason
from support.messaging import BrokerUnderTest, MemoryUnderTest, RedisUnderTest

MAX_RETRIES = 2
OPTIONS = QueueOptions(
    kind=Kind.PRIORITY, lease_s=600.0, retry=RetryPolicy(max_retries=MAX_RETRIES, backoff_s=0.0)
)
#: Longer than the millisecond that what ends "at once" here is given.
A_MOMENT_S = 0.003


@dataclass
class Known:
    """What the model knows of a message."""

    number: int
    priority: int
    order: int
    n_deliveries: int = 0
    expires: bool = False

    @property
    def rank(self) -> tuple[int, int]:
        return (-self.priority, self.order)


@dataclass
class HeldHere:
    """A delivery that a consumer has, and which handing of the message it is."""

    delivery: Delivery
    known: Known
    n_deliveries: int


class QueueMachine(RuleBasedStateMachine):
    """Two consumers on one queue; subclasses bring the broker."""

    new_broker: Callable[[], BrokerUnderTest]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.broker = type(self).new_broker()
        self.managers: list[QueueManager] = [self.connected(), self.connected()]
        self.run(self.managers[0].create_queue("q", OPTIONS))
        self.waiting: dict[int, Known] = {}
        self.held: list[list[HeldHere]] = [[], []]
        self.late: list[HeldHere] = []  #: their lease ended, and the consumer does not know
        self.n_sent = self.n_delayed = self.n_order = 0
        self.acked: list[int] = []
        self.dead: dict[int, Reason] = {}
        self.n_purged = 0

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    def connected(self) -> QueueManager:
        return self.run(self.broker.manager().__aenter__())

    @rule(priority=st.sampled_from([0, 1, 255]), client=st.integers(0, 1))
    def send(self, priority: int, client: int) -> None:
        self.run(self.managers[client].send("q", self.n_sent, priority=priority))
        self.note_sent(priority)

    @rule(n=st.integers(1, 5))
    def send_many(self, n: int) -> None:
        self.run(self.managers[0].send_many("q", list(range(self.n_sent, self.n_sent + n)), priority=1))
        for _ in range(n):
            self.note_sent(1)

    @rule(priority=st.sampled_from([0, 255]))
    def send_due_at_once(self, priority: int) -> None:
        self.run(self.managers[0].send("q", self.n_sent, priority=priority, delay_s=0.001))
        time_passes()
        self.note_sent(priority)

    @rule()
    def send_for_tomorrow(self) -> None:
        self.run(self.managers[0].send("q", self.n_sent, priority=255, delay_s=86_400.0))
        self.n_sent += 1
        self.n_delayed += 1

    @rule()
    def send_what_expires(self) -> None:
        self.run(self.managers[0].send("q", self.n_sent, priority=1, ttl_s=0.001))
        time_passes()
        self.note_sent(1, expires=True)

    def note_sent(self, priority: int, *, expires: bool = False) -> None:
        self.n_order += 1
        known = Known(self.n_sent, priority, self.n_order, expires=expires)
        self.waiting[known.number] = known
        self.n_sent += 1

    @rule(client=st.integers(0, 1), n=st.integers(1, 4))
    def receive(self, client: int, n: int) -> None:
        expected: list[Known] = []
        while not expected and self.waiting:
            for known in sorted(self.waiting.values(), key=lambda known: known.rank)[:n]:
                del self.waiting[known.number]
                known.n_deliveries += 1
                if known.expires:
                    self.dead[known.number] = Reason.EXPIRED
                elif known.n_deliveries > MAX_RETRIES + 1:
                    self.dead[known.number] = Reason.RETRIES_USED_UP
                else:
                    expected.append(known)

        deliveries = self.run(self.managers[client].receive("q", max_messages=n))

        assert [d.message.payload for d in deliveries] == [known.number for known in expected]
        assert [d.attempt for d in deliveries] == [known.n_deliveries for known in expected]
        pairs = zip(deliveries, expected, strict=True)
        self.held[client] += [HeldHere(delivery, known, known.n_deliveries) for delivery, known in pairs]

    @precondition(lambda self: any(self.held))
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        held = self.draw_held(data)
        self.run(held.delivery.ack())
        self.acked.append(held.known.number)

    @precondition(lambda self: any(self.held))
    @rule(data=st.data())
    def nack(self, data: st.DataObject) -> None:
        held = self.draw_held(data)
        self.run(held.delivery.nack("no"))
        if held.n_deliveries > MAX_RETRIES:
            self.dead[held.known.number] = Reason.RETRIES_USED_UP
        else:
            self.waiting[held.known.number] = held.known

    @precondition(lambda self: any(self.held))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        held = self.draw_held(data)
        self.run(held.delivery.give_back())
        held.known.n_deliveries -= 1
        self.waiting[held.known.number] = held.known

    @precondition(lambda self: any(self.held))
    @rule(data=st.data())
    def reject(self, data: st.DataObject) -> None:
        held = self.draw_held(data)
        self.run(held.delivery.reject("never"))
        self.dead[held.known.number] = Reason.HANDLER_ERROR

    @precondition(lambda self: any(self.held))
    @rule(data=st.data())
    def lease_ends_unnoticed(self, data: st.DataObject) -> None:
        held = self.draw_held(data)
        self.run(held.delivery.extend(0.001))
        time_passes()
        self.waiting[held.known.number] = held.known
        self.late.append(held)

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def ack_late(self, data: st.DataObject) -> None:
        held = self.late.pop(data.draw(st.integers(0, len(self.late) - 1)))
        is_ours = held.known.number in self.waiting and held.known.n_deliveries == held.n_deliveries
        if is_ours and held.delivery not in [other.delivery for other in self.late]:
            self.run(held.delivery.ack())
            del self.waiting[held.known.number]
            self.acked.append(held.known.number)
        else:
            with pytest.raises(LeaseLost):
                self.run(held.delivery.ack())

    @rule(client=st.integers(0, 1))
    def consumer_dies(self, client: int) -> None:
        for held in self.held[client]:
            self.run(held.delivery.extend(0.001))
            self.waiting[held.known.number] = held.known
        self.held[client] = []
        self.late = []
        self.run(self.managers[client].backend.close())
        self.managers[client] = self.connected()
        time_passes()

    @rule()
    def server_forgets_its_scripts(self) -> None:
        if isinstance(self.broker, RedisUnderTest):
            self.run(self.managers[0].backend._ask("SCRIPT", "FLUSH"))  # type: ignore[attr-defined]

    @precondition(lambda self: len(self.waiting) > 5)
    @rule()
    def purge(self) -> None:
        n = self.run(self.managers[0].purge_queue("q"))
        assert n == len(self.waiting) + self.n_delayed
        self.n_purged += n
        self.n_delayed = 0
        self.waiting = {}

    @invariant()
    def counts_are_true(self) -> None:
        measure = self.run(self.managers[0].statistics("q")).measure
        n_held = sum(map(len, self.held))
        expired = sum(reason is Reason.EXPIRED for reason in self.dead.values())
        assert measure.depth == len(self.waiting) + n_held + self.n_delayed
        assert measure.depth == self.n_sent - len(self.acked) - len(self.dead) - self.n_purged
        assert (measure.in_flight, measure.delayed) == (n_held, self.n_delayed)
        assert (measure.sent, measure.acknowledged) == (self.n_sent, len(self.acked))
        assert (measure.expired, measure.failed) == (expired, len(self.dead) - expired)
        assert len(set(self.acked)) == len(self.acked)

    def teardown(self) -> None:
        try:
            for client in (0, 1):
                while self.waiting:
                    self.receive(client, 4)
                for held in self.held[client]:
                    self.run(held.delivery.ack())
                    self.acked.append(held.known.number)
                self.held[client] = []
            self.counts_are_true()
            letters = self.run(self.managers[0].dead_letters.list_letters("q", limit=10_000))
            found = {each.message.payload: each.reason for each in letters if each.message}
            assert found == self.dead
            self.run(self.managers[0].delete_queue("q"))
            self.run(self.managers[0].dead_letters.discard_all("q"))
        finally:
            for manager in self.managers:
                self.run(manager.backend.close())
            self.runner.close()

    def draw_held(self, data: st.DataObject) -> HeldHere:
        client = data.draw(st.sampled_from([n for n in (0, 1) if self.held[n]]))
        return self.held[client].pop(data.draw(st.integers(0, len(self.held[client]) - 1)))


def time_passes() -> None:
    end = time.monotonic() + A_MOMENT_S
    while time.monotonic() < end:
        pass


def test_memory_queue_does_what_the_model_does() -> None:
    class Machine(QueueMachine):
        new_broker = staticmethod(MemoryUnderTest)

    run_state_machine_as_test(Machine, settings=settings(max_examples=40, stateful_step_count=40))


def test_redis_queue_does_what_the_model_does(redis_server: RedisServer) -> None:
    class Machine(QueueMachine):
        new_broker = staticmethod(
            lambda: RedisUnderTest(f"{redis_server.url}/0", namespace=f"test:{uuid.uuid4().hex}")
        )

    run_state_machine_as_test(Machine, settings=settings(max_examples=25, stateful_step_count=40))
