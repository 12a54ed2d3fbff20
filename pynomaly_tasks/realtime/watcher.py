"""One client's updates: handed to its socket at once, or kept for it within bounds."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from pynomaly_tasks.realtime.filters import Filter
from pynomaly_tasks.realtime.position import Position
from pynomaly_tasks.realtime.streams import STREAM_NAMES
from pynomaly_tasks.realtime.update import Encoder, Gap, Item, Skipped, Update

# A client that is slow keeps the newest state of each job. One for which even these fill more than
# this share of its queue would be gone through again with every update: it is told, and let go.
_MOST_KEPT = 0.75


class Watcher:
    """What one client has still to be told; never more than ``max_waiting`` items.

    ``write`` hands encoded updates to the client's socket and says whether it took them; it is
    asked while nothing waits. What it does not take waits for `take`.
    """

    def __init__(
        self, encode: Encoder, write: Callable[[bytes], bool] | None = None, *, max_waiting: int = 1_000
    ) -> None:
        self.encode = encode
        self.filters: list[Filter] = []
        self.resumes_from: Position | None = None  #: not placed yet: it is owed what came after this
        self._write = write
        self._max_waiting = max_waiting
        self._owed: deque[Item] = deque()
        self._waiting: deque[Item] = deque()
        self._has_some_in_hand = False
        self._n_skipped = 0
        self.closed = asyncio.Event()  #: it is told no more
        self.was_too_slow = False  #: and so was let go
        self._changed = asyncio.Event()

    @property
    def n_waiting(self) -> int:
        """Items that wait for the client."""
        return len(self._owed) + len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether it has been told all there is."""
        return not self._waiting and not self._owed and not self._has_some_in_hand

    @property
    def is_slow(self) -> bool:
        """Whether its queue is more than half full."""
        return len(self._waiting) > self._max_waiting // 2

    def offer(self, updates: Sequence[Update]) -> None:
        """Hand over, or keep."""
        if self.closed.is_set():
            return
        if self._write is not None and self.is_idle:
            encoded = [update.encoded(self.encode) for update in updates]
            if self._write(encoded[0] if len(encoded) == 1 else b"".join(encoded)):
                return
        self._keep(updates)

    def replay(self, items: Sequence[Item]) -> None:
        """What it missed, before all else. The streams bound it, so the queue's limit does not."""
        if items and not self.closed.is_set():
            self._owed.extend(items)
            self._changed.set()

    def tell(self, item: Item) -> None:
        """Something that is no update of a stream; after what waits already."""
        if not self.closed.is_set():
            self._keep((item,))

    def close(self) -> None:
        """No more: `take` gives what waits, and then None."""
        self.closed.set()
        self._changed.set()

    async def take(self, timeout_s: float, max_items: int = 200) -> list[Item] | None:
        """What waits, oldest first; nothing when there was nothing for that long; None at the end.

        What was taken before counts as told.
        """
        self._has_some_in_hand = False
        if self.is_idle and not self.closed.is_set():
            self._changed.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
            except TimeoutError:
                pass  # looked at below: something may have come at the same moment
        if self.is_idle:
            return None if self.closed.is_set() else []
        self._has_some_in_hand = True
        if self._owed:
            return [self._owed.popleft() for _ in range(min(max_items, len(self._owed)))]
        taken: list[Item] = []
        if self._n_skipped:
            taken.append(Skipped(n_updates=self._n_skipped))
            self._n_skipped = 0
        taken += [self._waiting.popleft() for _ in range(min(max_items, len(self._waiting)))]
        return taken

    def _keep(self, items: Iterable[Item]) -> None:
        self._waiting.extend(items)
        if len(self._waiting) > self._max_waiting:
            self._thin_out()
        self._changed.set()

    def _thin_out(self) -> None:
        """Keep the newest update of each job; when that does not help, tell the client and let it go."""
        n_before = len(self._waiting)
        newest: set[str] = set()
        kept: deque[Item] = deque()
        for item in reversed(self._waiting):
            if isinstance(item, Update) and item.state_of is not None:
                if item.state_of in newest:
                    continue
                newest.add(item.state_of)
            kept.appendleft(item)
        if len(kept) > self._max_waiting * _MOST_KEPT:
            self._owed.clear()
            self._waiting.clear()
            self._n_skipped = 0
            reason = f"updates were read too slowly: {self._max_waiting} were waiting"
            self._waiting.append(Gap(reason=reason, streams=STREAM_NAMES, position=None))
            self.was_too_slow = True
            self.closed.set()
            return
        self._waiting = kept
        self._n_skipped += n_before - len(kept)
