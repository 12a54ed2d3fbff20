"""What becomes of messages that this process holds: acknowledged, given back, or held for longer."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pynomaly_tasks.messaging.backends.coalescing import Coalescers
from pynomaly_tasks.messaging.backends.pubsub.connection import PubSubConnection
from pynomaly_tasks.messaging.plain_broker import LaneGone

LONGEST_LEASE_S = 600
#: Of one request; Pub/Sub takes 512 KiB.
_MOST = 1_000


@dataclass(slots=True, eq=False)
class Lease:
    """A delivery that is ours."""

    subscription: str
    key: str  #: when it was published, and its number
    ack_id: str
    until: float  #: by the monotonic clock

    @property
    def is_ours(self) -> bool:
        """It has not ended."""
        return time.monotonic() < self.until


class Settling:
    """What is asked for one subscription in the same moment goes in one request."""

    def __init__(self, connection: PubSubConnection) -> None:
        self._connection = connection
        self._acknowledgements = Coalescers(self._acknowledge, lambda lease: lease.subscription)
        self._deadlines = Coalescers(self._extend, lambda asked: (asked[0].subscription, _whole(asked[1])))

    async def flush(self) -> None:
        """Before closing: until all that was asked for is done, 2 s at most."""
        await asyncio.gather(self._acknowledgements.flush(), self._deadlines.flush())

    async def acknowledge(self, leases: Sequence[Lease]) -> list[bool]:
        """False where it ended."""
        answers = await self._acknowledgements.call(leases)
        # Only now: when one request failed all are tried again, and then those that were done are still ours.
        for lease in leases:
            lease.until = 0.0
        return answers

    async def _acknowledge(self, subscription: str, leases: Sequence[Lease]) -> list[bool]:
        answers = [lease.is_ours for lease in leases]
        ack_ids = [lease.ack_id for lease, is_ours in zip(leases, answers, strict=True) if is_ours]
        try:
            for at in range(0, len(ack_ids), _MOST):
                request = {"subscription": subscription, "ack_ids": ack_ids[at : at + _MOST]}
                with self._connection.mapped_errors():
                    await self._connection.subscriber.acknowledge(
                        request=request, timeout=self._connection.timeout_s, retry=None
                    )
        except LaneGone:
            return [False] * len(leases)
        return answers

    async def release(self, lease: Lease) -> bool:
        """Hand it out again now; False where it ended."""
        (is_ours,) = await self._deadlines.call([(lease, 0.0)])
        lease.until = 0.0
        return is_ours

    async def extend(self, leases: Sequence[Lease], lease_s: float) -> list[bool]:
        """Let them end ``lease_s`` from now, 600 s at most; False where it ended."""
        return await self._deadlines.call([(lease, lease_s) for lease in leases])

    async def _extend(self, where: tuple[str, int], asked: Sequence[tuple[Lease, float]]) -> list[bool]:
        subscription, seconds = where
        now = time.monotonic()
        answers = [lease.is_ours for lease, _ in asked]
        ours = [each for each, is_ours in zip(asked, answers, strict=True) if is_ours]
        try:
            await self.set_deadline(subscription, [lease.ack_id for lease, _ in ours], seconds)
        except LaneGone:
            return [False] * len(asked)
        for lease, lease_s in ours:
            lease.until = now + min(lease_s, LONGEST_LEASE_S)
        return answers

    async def set_deadline(self, subscription: str, ack_ids: Sequence[str], lease_s: float) -> None:
        """Whole seconds from now, rounded up; 0 gives them back. Raises LaneGone."""
        for at in range(0, len(ack_ids), _MOST):
            with self._connection.mapped_errors():
                await self._connection.subscriber.modify_ack_deadline(
                    request={
                        "subscription": subscription,
                        "ack_ids": list(ack_ids[at : at + _MOST]),
                        "ack_deadline_seconds": _whole(lease_s),
                    },
                    timeout=self._connection.timeout_s,
                    retry=None,
                )


def _whole(lease_s: float) -> int:
    return min(math.ceil(lease_s), LONGEST_LEASE_S)
