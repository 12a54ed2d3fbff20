"""Any order of sends, receives, settlements, dead consumers and restarted servers, beside a model of a few lines.

Nothing is lost, nothing is acknowledged twice, order holds within equal priority, and the depth is what
was sent less what is done, after each step. Hypothesis looks for odd orders and makes them small; a long
random way, the same each time, makes sure that everything hard did happen.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
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
from pynomaly_tasks.errors import BrokerUnavailable, LeaseLost
from pynomaly_tasks.messaging import Delivery, Kind, QueueManager, QueueOptions, Reason
from support.messaging import BrokerUnderTest, MemoryUnderTest, ServerUnderTest
from support.waiting import wait_until

MAX_RETRIES = 2
OPTIONS = QueueOptions(
    kind=Kind.PRIORITY, lease_s=600.0, retry=RetryPolicy(max_retries=MAX_RETRIES, backoff_s=0.0)
)
#: Longer than the millisecond that what ends "at once" here is given.
A_MOMENT_S = 0.003
HOW_SENT = ["now", "now", "together", "due at once", "expiring", "for tomorrow"]
HAPPENS = ["ack", "nack", "give back", "reject", "expired", "redelivered", "died holding", "ack refused"]
HAPPENS_TO_A_SERVER = ["restarted holding", "restarted with messages waiting"]


@dataclass
class Known:
    """What the model knows of a message."""

    number: int
    priority: int
    order: int
    n_deliveries: int = 0
    n_handed: int = 0  #: as n_deliveries, but for those that were given back untried
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
    n_handed: int


#: In one run of Hypothesis's: each takes a twentieth of a second.
MAX_RESTARTS = 2
#: Which one of those that there are.
ANY = st.integers(0, 11)


class QueueMachine(RuleBasedStateMachine):
    """Two consumers on one queue; subclasses bring the broker."""

    new_broker: Callable[[], BrokerUnderTest]

    def __init__(self) -> None:
        super().__init__()
        self.happened: Counter[str] = Counter()
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

    # Few rules with choices within, not many rules: each step is then likely to meet what the ones before it left.
    @rule(
        how=st.sampled_from(HOW_SENT),
        priority=st.sampled_from([0, 1, 255]),
        client=st.integers(0, 1),
    )
    def send(self, how: str, priority: int, client: int) -> None:
        if how == "together":
            payloads = list(range(self.n_sent, self.n_sent + 3))
            self.run(self.managers[client].send_many("q", payloads, priority=priority))
            for _ in payloads:
                self.note_sent(priority)
            return
        options = {
            "due at once": {"delay_s": 0.001},
            "expiring": {"ttl_s": 0.001},
            "for tomorrow": {"delay_s": 86_400.0},
        }
        self.run(self.managers[client].send("q", self.n_sent, priority=priority, **options.get(how, {})))
        if how == "for tomorrow":
            self.n_sent += 1
            self.n_delayed += 1
            return
        if how in ("due at once", "expiring"):
            time_passes()
        self.note_sent(priority, expires=how == "expiring")

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
                known.n_handed += 1
                self.happened["redelivered"] += known.n_deliveries > 1
                if known.expires:
                    self.happened["expired"] += 1
                    self.dead[known.number] = Reason.EXPIRED
                elif known.n_deliveries > MAX_RETRIES + 1:
                    self.dead[known.number] = Reason.RETRIES_USED_UP
                else:
                    expected.append(known)

        deliveries = self.run(self.managers[client].receive("q", max_messages=n))

        assert [d.message.payload for d in deliveries] == [known.number for known in expected]
        assert [d.attempt for d in deliveries] == [known.n_deliveries for known in expected]
        pairs = zip(deliveries, expected, strict=True)
        self.held[client] += [
            HeldHere(delivery, known, known.n_deliveries, known.n_handed) for delivery, known in pairs
        ]

    @precondition(lambda self: any(self.held))
    @rule(how=st.sampled_from(["ack", "ack", "nack", "give back", "reject"]), which=ANY)
    def settle(self, how: str, which: int) -> None:
        held = self.pop_held(which)
        self.happened[how] += 1
        number = held.known.number
        if how == "ack":
            self.run(held.delivery.ack())
            self.acked.append(number)
        elif how == "nack":
            self.run(held.delivery.nack("no"))
            if held.n_deliveries > MAX_RETRIES:
                self.dead[number] = Reason.RETRIES_USED_UP
            else:
                self.waiting[number] = held.known
        elif how == "give back":
            self.run(held.delivery.give_back())
            held.known.n_deliveries -= 1
            self.waiting[number] = held.known
        else:
            self.run(held.delivery.reject("never"))
            self.dead[number] = Reason.HANDLER_ERROR

    @precondition(lambda self: any(self.held))
    @rule(which=ANY)
    def lease_ends_unnoticed(self, which: int) -> None:
        held = self.pop_held(which)
        self.run(held.delivery.extend(0.001))
        time_passes()
        self.waiting[held.known.number] = held.known
        self.late.append(held)

    @precondition(lambda self: self.late)
    @rule(which=ANY)
    def ack_late(self, which: int) -> None:
        held = self.late.pop(which % len(self.late))
        is_waiting = held.known.number in self.waiting
        try:
            self.run(held.delivery.ack())
        except LeaseLost:
            self.happened["ack refused"] += 1
            # It must not be where nobody else had the message since.
            assert not is_waiting or held.known.n_handed > held.n_handed
        else:
            # As good as in time: nobody has it, and if somebody had, they gave it back untried.
            assert is_waiting
            assert held.known.n_deliveries == held.n_deliveries
            del self.waiting[held.known.number]
            self.acked.append(held.known.number)

    @precondition(lambda self: any(self.held))
    @rule(client=st.integers(0, 1))
    def consumer_dies(self, client: int) -> None:
        self.happened["died holding"] += len(self.held[client]) > 0
        for held in self.held[client]:
            self.run(held.delivery.extend(0.001))
            self.waiting[held.known.number] = held.known
        self.held[client] = []
        self.late = []
        self.run(self.managers[client].backend.close())
        self.managers[client] = self.connected()
        time_passes()

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

    def pop_held(self, which: int) -> HeldHere:
        consumers = [held for held in self.held if held]
        held = consumers[which % len(consumers)]
        return held.pop(which // 2 % len(held))


def time_passes() -> None:
    end = time.monotonic() + A_MOMENT_S
    while time.monotonic() < end:
        pass


class RedisQueueMachine(QueueMachine):
    """What can happen to a server besides."""

    server: RedisServer
    n_restarts = 0

    @rule()
    def server_forgets_its_scripts(self) -> None:
        with self.server.client() as client:
            client.script_flush()

    @precondition(lambda self: self.n_restarts < MAX_RESTARTS)
    @rule()
    def server_is_killed_and_started(self) -> None:
        self.n_restarts += 1
        self.happened["restarted holding"] += any(self.held)
        self.happened["restarted with messages waiting"] += len(self.waiting) > 0
        self.server.restart()
        for manager in self.managers:
            wait_until(lambda manager=manager: self.answers(manager), 20.0, "the server to answer")

    def answers(self, manager: QueueManager) -> bool:
        try:
            self.run(manager.backend.ping())
        except BrokerUnavailable:  # the connection of before, or the server is loading its data
            return False
        return True


def walk(machine: QueueMachine, n_steps: int, seed: int) -> Counter[str]:
    """A long way through the machine, and what happened on it."""
    chance = random.Random(seed)
    try:
        for _ in range(n_steps):
            step(machine, chance)
            machine.counts_are_true()
    finally:
        machine.teardown()
    return machine.happened


def step(machine: QueueMachine, chance: random.Random) -> None:
    which = chance.randrange(12)
    kinds = ["send", "send", "receive", "receive"]
    kinds += ["settle", "settle", "settle", "lease ends", "consumer dies"] if any(machine.held) else []
    kinds += ["ack late"] if machine.late else []
    kinds += ["purge"] if len(machine.waiting) > 20 else []
    match chance.choice(kinds):
        case "send":
            machine.send(chance.choice(HOW_SENT), chance.choice([0, 1, 255]), which % 2)
        case "receive":
            machine.receive(which % 2, chance.randint(1, 4))
        case "settle":
            machine.settle(chance.choice(["ack", "nack", "give back", "reject"]), which)
        case "lease ends":
            machine.lease_ends_unnoticed(which)
        case "consumer dies":
            machine.consumer_dies(which % 2)
        case "ack late":
            machine.ack_late(which)
        case "purge":
            machine.purge()
    if isinstance(machine, RedisQueueMachine) and chance.random() < 0.05:
        machine.server_forgets_its_scripts()
        machine.server_is_killed_and_started()


class MemoryQueueMachine(QueueMachine):
    new_broker = staticmethod(MemoryUnderTest)


@pytest.fixture
def redis_machine(own_redis: RedisServer) -> type[RedisQueueMachine]:
    class Machine(RedisQueueMachine):
        server = own_redis
        new_broker = staticmethod(lambda: ServerUnderTest("redis_streams", f"{own_redis.url}/0"))

    return Machine


def test_memory_queue_does_what_the_model_does() -> None:
    run_state_machine_as_test(MemoryQueueMachine, settings=settings(max_examples=40, stateful_step_count=40))


def test_redis_queue_does_what_the_model_does(redis_machine: type[RedisQueueMachine]) -> None:
    run_state_machine_as_test(redis_machine, settings=settings(max_examples=25, stateful_step_count=40))


def test_memory_queue_does_what_the_model_does_on_a_long_way_with_every_hardship() -> None:
    happened = walk(MemoryQueueMachine(), 1_500, seed=5)

    assert all(happened[what] > 30 for what in HAPPENS), happened


def test_redis_queue_does_what_the_model_does_on_a_long_way_with_every_hardship(
    redis_machine: type[RedisQueueMachine],
) -> None:
    happened = walk(redis_machine(), 600, seed=6)

    assert all(happened[what] > 10 for what in {*HAPPENS, *HAPPENS_TO_A_SERVER}), happened
