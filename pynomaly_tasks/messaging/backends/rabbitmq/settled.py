"""Which deliveries of a channel are settled, so that those that may be are acknowledged in one frame."""

from __future__ import annotations

#: Settled behind one that is not. What was erased with its lane never is: then each is acknowledged by itself.
_MOST_LATER = 10_000


class Settled:
    """The delivery tags of one channel, which counts them from 1, of which the server was told."""

    def __init__(self) -> None:
        self._next = 1  #: the first that is not; 0 when it is not known any more
        self._later: set[int] = set()

    def add(self, *tags: int) -> None:
        """The server was told of these."""
        if not self._next:
            return
        self._later.update(tags)
        while self._next in self._later:
            self._later.remove(self._next)
            self._next += 1
        if len(self._later) > _MOST_LATER:
            self._next, self._later = 0, set()

    def reach(self, tags: set[int]) -> int:
        """The last of these up to which nothing else is unsettled; 0 where something is before them all."""
        tag, reached = self._next, 0
        while tag in tags or tag in self._later:
            reached = tag if tag in tags else reached
            tag += 1
        return reached
