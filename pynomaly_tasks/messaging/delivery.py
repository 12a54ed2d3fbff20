"""One handing of a message to one consumer."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pynomaly_tasks.errors import AlreadySettled, LeaseLost
from pynomaly_tasks.messaging.backend import Entry, Held, Note, Outcome, Settlement
from pynomaly_tasks.messaging.dead_letters import Reason, dead_entry_of
from pynomaly_tasks.messaging.message import Guarantee, Message
from pynomaly_tasks.messaging.options import QueueOptions
from pynomaly_tasks.messaging.session import Session

#: How long it is known who acknowledged a broadcast or a quorum.
KEEP_CONFIRMATIONS_S = 86_400.0


class Delivery:
    """A message that is ours until its lease ends. Settle it exactly once: ack, nack, reject or give_back.

    Each raises AlreadySettled the second time, and LeaseLost when another consumer may hold the
    message now; in both nothing is changed. A delivery that is never settled comes again.
    """

    __slots__ = (
        "_held",
        "_is_settled",
        "_options",
        "_received_at",
        "_session",
        "attempt",
        "message",
        "queue",
    )

    def __init__(
        self, session: Session, held: Held, message: Message, options: QueueOptions, *, is_settled: bool
    ) -> None:
        """Made by `QueueManager.receive`."""
        self.message = message
        self.queue = held.channel
        self.attempt = held.n_deliveries  #: which try this is, from 1; a consumer that died counts
        self._session = session
        self._held = held
        self._options = options
        self._is_settled = is_settled
        self._received_at = time.monotonic()

    @property
    def lease_s(self) -> float:
        """How long it is ours, from when it was received or extended."""
        return self._options.lease_s

    @property
    def is_settled(self) -> bool:
        """Whether it was settled; a fire_and_forget message is from the start."""
        return self._is_settled

    async def ack(self) -> None:
        """Done."""
        if self.message.guarantee is Guarantee.FIRE_AND_FORGET:
            return  # it was settled before anybody saw it
        note = None
        if self.message.guarantee in (Guarantee.BROADCAST, Guarantee.QUORUM):
            note = Note(key=self.message.id, member=self.queue, keep_s=KEEP_CONFIRMATIONS_S)
        await self._settle(Outcome.ACKNOWLEDGED, [], note)

    async def nack(self, error: str = "", *, delay_s: float | None = None) -> None:
        """This try failed: try again after the queue's backoff, or ``delay_s``; the last one is a dead letter."""
        retry = self._options.retry
        if self.attempt > retry.max_retries:
            await self._die(Reason.RETRIES_USED_UP, error or "the consumer gave it back each time")
        else:
            await self._give_back(retry.delay_s(self.attempt) if delay_s is None else delay_s, counted=True)

    async def reject(self, error: str, *, reason: Reason = Reason.HANDLER_ERROR) -> None:
        """It can never be done: make it a dead letter, with the reason."""
        await self._die(reason, error)

    async def give_back(self, *, delay_s: float = 0.0) -> None:
        """It was not tried: hand it out again, as if it had never been here."""
        await self._give_back(delay_s, counted=False)

    async def extend(self, lease_s: float | None = None) -> None:
        """Let the lease end ``lease_s`` from now, by default the queue's. Raises LeaseLost."""
        if self._is_settled:
            raise self._settled_before()
        (is_ours,) = await self._session.backend.extend(
            [self._held], lease_s=lease_s or self._options.lease_s
        )
        if not is_ours:
            raise self._lost()

    async def _die(self, reason: Reason, error: str) -> None:
        then = [dead_entry_of(self._held, reason, error, self.message)] if self._options.dead_letters else []
        await self._settle(Outcome.FAILED, then, None)

    async def _settle(self, outcome: Outcome, then: Sequence[Entry], note: Note | None) -> None:
        self._claim()
        settlement = Settlement(
            held=self._held,
            outcome=outcome,
            then=then,
            note=note,
            handled_s=time.monotonic() - self._received_at,
        )
        try:
            (is_ours,) = await self._session.backend.settle([settlement])
        except BaseException:
            self._is_settled = False  # nobody knows whether it was; the backend will, when it is tried again
            raise
        if not is_ours:
            raise self._lost()

    async def _give_back(self, delay_s: float, *, counted: bool) -> None:
        self._claim()
        try:
            is_ours = await self._session.backend.give_back(self._held, delay_s=delay_s, counted=counted)
        except BaseException:
            self._is_settled = False
            raise
        if not is_ours:
            raise self._lost()

    def _claim(self) -> None:
        if self._is_settled:
            raise self._settled_before()
        self._is_settled = True

    def _settled_before(self) -> AlreadySettled:
        return AlreadySettled(f"the delivery of message {self.message.id} was settled before; settle it once")

    def _lost(self) -> LeaseLost:
        return LeaseLost(
            f"the lease of message {self.message.id} ({self._options.lease_s:g} s) ran out and it went to another "
            "consumer, or its queue was deleted; extend the lease while you work"
        )


async def extend_all(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Let the leases of what is not settled end later, in one round trip; those that are not ours any more."""
    live = [delivery for delivery in deliveries if not delivery.is_settled]
    lost: list[Delivery] = []
    for lease_s in {delivery.lease_s for delivery in live}:
        alike = [delivery for delivery in live if delivery.lease_s == lease_s]
        answers = await alike[0]._session.backend.extend([each._held for each in alike], lease_s=lease_s)
        # One that was settled meanwhile is nobody's loss.
        lost += [
            each for each, is_ours in zip(alike, answers, strict=True) if not is_ours and not each.is_settled
        ]
    return lost
