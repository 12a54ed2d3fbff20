"""Which deliveries of a channel are settled, so that those that may be are acknowledged in one frame."""

from __future__ import annotations


class Settled:
    """The delivery tags of one channel, which counts them from 1, of which the server was told."""

    def __init__(self) -> None:
        self._next = 1  #: the first that is not
        self._later: set[int] = set()

    def add(self, *tags: int) -> None:
        """The server was told of these."""
        self._later.update(tags)
        while self._next in self._later:
            self._later.remove(self._next)
            self._next += 1

    def reach(self, tags: set[int]) -> int:
        """The last of these up to which nothing else is unsettled; 0 where something is before them all."""
        tag, reached = self._next, 0
        while tag in tags or tag in self._later:
            reached = tag if tag in tags else reached
            tag += 1
        return reached
