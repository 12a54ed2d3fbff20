"""Any order of sends, receives, settlements, dead processes and answers that fail, over the least broker there is.

Nothing is lost; nothing ends twice, but for a copy where an answer failed or a process died between putting
what follows and the acknowledgement; tries are counted right; what was never held comes in order.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from pynomaly_tasks.core.retry import RetryPolicy
from pynomaly_tasks.errors import BrokerUnavailable, LeaseLost
from pynomaly_tasks.messaging import Delivery, Kind, QueueManager, QueueOptions
from pynomaly_tasks.messaging.emulation import EmulatedBackend, catalog
from support.plain_memory import PlainMemoryBroker, PlainMemoryServer, refuse

OPTIONS = QueueOptions(
    kind=Kind.PRIORITY, lease_s=600.0, retry=RetryPolicy(max_retries=1_000, backoff_s=0.0, jitter=0.0)
)
ANY = st.integers(0, 11)


@dataclass
class Known:
    """What the model knows of a message."""

    number: int
    priority: int
    n_tries: int = 0
    was_held: bool = False
    n_copies: int = 0  #: that may be there beside it
    n_ended: int = 0


@dataclass
class Holding:
    """A delivery, and who has it."""

    delivery: Delivery
    known: Known
    client: int


class EmulationMachine(RuleBasedStateMachine):
    """Two processes on one queue.

    A rule that finds nothing to do does nothing: when delayed messages come depends on the clock, and what
    Hypothesis draws must not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.server = PlainMemoryServer()
        self.managers = [self.connected(), self.connected()]
        self.run(self.managers[0].create_queue("q", OPTIONS))
        self.known: list[Known] = []
        self.waiting: set[int] = set()  #: never held, and not delayed
        self.held: list[Holding] = []
        self.happened: Counter[str] = Counter()

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    def connected(self) -> QueueManager:
        return self.run(QueueManager(EmulatedBackend(PlainMemoryBroker(self.server))).__aenter__())

    def note_sent(self, priority: int, *, is_plain: bool) -> None:
        known = Known(len(self.known), priority, was_held=not is_plain)
        self.known.append(known)
        if is_plain:
            self.waiting.add(known.number)

    @rule(client=st.integers(0, 1), priority=st.sampled_from([0, 1, 255]), n=st.integers(1, 3))
    def send(self, client: int, priority: int, n: int) -> None:
        first = len(self.known)
        self.run(self.managers[client].send_many("q", list(range(first, first + n)), priority=priority))
        for _ in range(n):
            self.note_sent(priority, is_plain=True)

    @rule(client=st.integers(0, 1), priority=st.sampled_from([0, 255]))
    def send_delayed(self, client: int, priority: int) -> None:
        self.run(self.managers[client].send("q", len(self.known), priority=priority, delay_s=0.001))
        self.note_sent(priority, is_plain=False)

    @rule(client=st.integers(0, 1))
    def send_in_vain(self, client: int) -> None:
        self.server.before = refuse("append")
        with pytest.raises(BrokerUnavailable):
            self.run(self.managers[client].send("q", -1))
        self.server.before = lambda step: None

    @rule(client=st.integers(0, 1), n=st.integers(1, 4))
    def receive(self, client: int, n: int) -> None:
        for delivery in self.run(self.managers[client].receive("q", max_messages=n)):
            self.note_received(delivery, client)

    def note_received(self, delivery: Delivery, client: int) -> None:
        known = self.known[delivery.message.payload]
        if known.n_copies == 0:
            assert known.n_ended == 0
            assert delivery.attempt == known.n_tries + 1
        known.n_tries = delivery.attempt
        if known.number in self.waiting:
            self.waiting.discard(known.number)
            better = [each for each in self.waiting if self.rank(each) < self.rank(known.number)]
            assert better == [], f"{known.number} came before {better}"
        known.was_held = True
        self.held.append(Holding(delivery, known, client))

    def rank(self, number: int) -> tuple[int, int]:
        return (-self.known[number].priority, number)

    @rule(how=st.sampled_from(["ack", "nack", "give back", "reject"]), which=ANY)
    def settle(self, how: str, which: int) -> None:
        if not self.held:
            return
        holding = self.held.pop(which % len(self.held))
        self.happened[how] += 1
        self.run(_settle(holding.delivery, how))
        if how == "give back":
            holding.known.n_tries -= 1
        elif how != "nack":
            holding.known.n_ended += 1

    @rule(how=st.sampled_from(["ack", "nack", "give back", "reject"]), which=ANY)
    def settle_without_an_answer(self, how: str, which: int) -> None:
        """What follows was put, and the acknowledgement failed: it is still held, beside a copy."""
        if not self.held:
            return
        holding = self.held[which % len(self.held)]
        self.server.before = refuse("acknowledge")
        with pytest.raises(BrokerUnavailable):
            self.run(_settle(holding.delivery, how))
        self.server.before = lambda step: None
        self.happened["no answer"] += 1
        if how == "reject":
            holding.known.n_copies += 1
            holding.known.n_ended += 1
        elif how != "ack":
            holding.known.n_copies += 1

    @rule(which=ANY)
    def lease_ends(self, which: int) -> None:
        if not self.held:
            return
        holding = self.held.pop(which % len(self.held))
        self.happened["lease ended"] += 1
        self.end_leases([holding])

    def end_leases(self, holdings: list[Holding]) -> None:
        for holding in holdings:
            found = holding.delivery._session.backend._hands.find(holding.delivery._held)  # type: ignore[attr-defined]
            number, lease = found.taken.token
            kept = self.server.lanes[found.taken.lane].get(number)
            if kept is not None and kept.lease == lease:
                kept.lease, kept.until = 0, 0.0
            with pytest.raises(LeaseLost):
                self.run(holding.delivery.ack())

    @rule(client=st.integers(0, 1))
    def process_dies(self, client: int) -> None:
        theirs = [holding for holding in self.held if holding.client == client]
        self.held = [holding for holding in self.held if holding.client != client]
        self.happened["died holding"] += bool(theirs)
        self.end_leases(theirs)
        backend: Any = self.managers[client].backend
        moving = self.run(backend._movers.stop())  # what it was about to move, it does not
        for taken in moving:
            kept = self.server.lanes[taken.lane].get(taken.token[0])
            if kept is not None:
                kept.until = 0.0
        self.run(backend._broker.close())
        self.managers[client] = self.connected()

    @invariant()
    def nothing_is_lost(self) -> None:
        depth = self.run(self.managers[0].statistics("q")).measure.depth
        n_open = sum(known.n_ended == 0 for known in self.known)
        n_copies = sum(known.n_copies for known in self.known)
        assert n_open <= depth <= len(self.known) + n_copies

    def teardown(self) -> None:
        try:
            for holding in self.held:
                self.run(holding.delivery.ack())
                holding.known.n_ended += 1
            self.held = []
            self.run(self.drain())
            n_letters = Counter(
                each.message.payload
                for each in self.run(self.managers[0].dead_letters.list_letters("q", limit=10_000))
                if each.message
            )
            for known in self.known:
                assert 1 <= known.n_ended <= 1 + known.n_copies, known
                assert n_letters[known.number] <= known.n_ended
        finally:
            for manager in self.managers:
                self.run(manager.backend.close())
            self.runner.close()

    async def drain(self) -> None:
        while (await self.managers[1].statistics("q")).measure.depth:
            for delivery in await self.managers[1].receive("q", max_messages=10, wait_s=0.05):
                self.note_received(delivery, 1)
                await delivery.ack()
                self.held.pop().known.n_ended += 1


async def _settle(delivery: Delivery, how: str) -> None:
    if how == "ack":
        await delivery.ack()
    elif how == "nack":
        await delivery.nack("no")
    elif how == "give back":
        await delivery.give_back()
    else:
        await delivery.reject("never")


@pytest.mark.large
def test_emulated_queue_loses_nothing_and_ends_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    # Both processes see a new lane at once: how soon they do is tested elsewhere.
    monkeypatch.setattr(catalog, "FRESH_S", -1.0)

    run_state_machine_as_test(
        EmulationMachine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )
