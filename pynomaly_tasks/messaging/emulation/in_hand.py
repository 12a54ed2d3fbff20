"""What this process holds: from the fence that a `Held` has to the broker's handle."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pynomaly_tasks.messaging.backend import Held
from pynomaly_tasks.messaging.emulation.head import Head
from pynomaly_tasks.messaging.plain_broker import Taken

#: What was taken and never settled is forgotten this long after its lease ended.
_KEEP_LOST_S = 60.0
_SWEEP_EVERY = 1_000


@dataclass(slots=True)
class InHand:
    """One delivery."""

    channel: str
    taken: Taken
    head: Head
    lease_until: float  #: by the monotonic clock


class Hands:
    """All deliveries that are not settled."""

    def __init__(self) -> None:
        self._by_fence: dict[str, InHand] = {}
        self._fences = itertools.count(1)

    def add(self, channel: str, taken: Taken, head: Head, lease_s: float) -> str:
        """Remember it; its fence."""
        n = next(self._fences)
        if n % _SWEEP_EVERY == 0:
            self._sweep()
        fence = str(n)
        self._by_fence[fence] = InHand(channel, taken, head, time.monotonic() + lease_s)
        return fence

    def find(self, held: Held) -> InHand | None:
        """None where it was settled, or forgotten."""
        return self._by_fence.get(held.fence)

    def extended(self, held: Sequence[Held], lease_s: float) -> None:
        """Their leases end later."""
        for each in held:
            if (found := self.find(each)) is not None:
                found.lease_until = time.monotonic() + lease_s

    def drop(self, held: Held) -> None:
        """It is settled, or lost."""
        self._by_fence.pop(held.fence, None)

    def forget(self, channel: str) -> None:
        """The channel is gone."""
        for fence in [fence for fence, each in self._by_fence.items() if each.channel == channel]:
            del self._by_fence[fence]

    def _sweep(self) -> None:
        past = time.monotonic() - _KEEP_LOST_S
        for fence in [fence for fence, each in self._by_fence.items() if each.lease_until < past]:
            del self._by_fence[fence]
