"""Deduplication where the broker has none: what this process sent within the window."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict

#: Past that the oldest are forgotten before their window ends.
MAX_FINGERPRINTS = 100_000

_Key = tuple[str, str]


class Windows:
    """Fingerprints of what was sent, by channel and key. Only of this process: others have their own."""

    def __init__(self) -> None:
        self._ends: OrderedDict[_Key, float] = OrderedDict()
        self._pending: dict[_Key, asyncio.Future[None]] = {}

    async def claim(self, channel: str, key: str) -> bool:
        """False when it was sent within the window; waits for one that is being sent at this moment.

        True: send it, and then `keep` or `drop` the claim.
        """
        mark = (channel, key)
        while (pending := self._pending.get(mark)) is not None:
            await asyncio.wait([pending])
        end = self._ends.get(mark)
        if end is not None and end > time.monotonic():
            return False
        self._pending[mark] = asyncio.get_running_loop().create_future()
        return True

    def keep(self, channel: str, key: str, window_s: float) -> None:
        """It was sent."""
        now = time.monotonic()
        self._ends[channel, key] = now + window_s
        self._ends.move_to_end((channel, key))
        while self._ends and (len(self._ends) > MAX_FINGERPRINTS or next(iter(self._ends.values())) <= now):
            self._ends.popitem(last=False)
        self.drop(channel, key)

    def drop(self, channel: str, key: str) -> None:
        """It was not sent, or nobody knows: the next one may be."""
        pending = self._pending.pop((channel, key), None)
        if pending is not None and not pending.done():
            pending.set_result(None)

    def forget(self, channel: str) -> None:
        """The channel is gone."""
        for mark in [mark for mark in self._ends if mark[0] == channel]:
            del self._ends[mark]
