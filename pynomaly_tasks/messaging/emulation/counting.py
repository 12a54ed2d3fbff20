"""How much there is, by the broker; and what happened, as this process counted it."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TypeGuard

from pynomaly_tasks.messaging.backend import Measure, Outcome, Settlement
from pynomaly_tasks.messaging.emulation.lanes import Lanes
from pynomaly_tasks.messaging.plain_broker import LaneCount, PlainBroker


class Tally:
    """Counts of this process, by channel, since the backend was opened."""

    def __init__(self, broker: PlainBroker) -> None:
        self._broker = broker
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._handled_s: defaultdict[str, float] = defaultdict(float)

    def add(self, channel: str, what: str, n: int = 1) -> None:
        """``what``: a field of `Measure`."""
        self._counts[channel][what] += n

    def settled(self, settlement: Settlement) -> None:
        """It ended."""
        self.add(settlement.held.channel, settlement.outcome.value)
        if settlement.outcome is Outcome.ACKNOWLEDGED:
            self._handled_s[settlement.held.channel] += settlement.handled_s

    def forget(self, channel: str) -> None:
        """The channel is gone."""
        self._counts.pop(channel, None)
        self._handled_s.pop(channel, None)

    async def measure(self, channel: str, lanes: Lanes) -> Measure:
        """Both together."""
        main = [await self._broker.count(lane) for lane in lanes.main]
        delay = [await self._broker.count(lane) for lane in lanes.delay]
        handled_s, counts = self._handled_s[channel], self._counts[channel]
        if not are_counted(main) or not are_counted(delay):
            return Measure(
                depth=None, in_flight=None, delayed=None, oldest_age_s=None, handled_s=handled_s, **counts
            )
        in_flight = sum(each.held for each in main)
        delayed = sum(each.delayed for each in main) + sum(
            each.waiting + each.held + each.delayed for each in delay
        )
        return Measure(
            depth=sum(each.waiting for each in main) + in_flight + delayed,
            in_flight=in_flight,
            delayed=delayed,
            oldest_age_s=max((each.oldest_age_s for each in main), default=0.0),
            handled_s=handled_s,
            **counts,
        )


def are_counted(counts: list[LaneCount | None]) -> TypeGuard[list[LaneCount]]:
    """Whether the broker says what lies in each."""
    return None not in counts
