"""Ids of tasks: random UUIDs, as Celery's."""

from __future__ import annotations

import os
from collections import deque
from uuid import UUID

_AT_ONCE = 64


class TaskIds:
    """Draws many at a time, so that a call seldom has to ask the kernel."""

    def __init__(self) -> None:
        self._pid = -1
        self._free: deque[str] = deque()

    def next(self) -> str:
        """One that nobody had."""
        if os.getpid() != self._pid:
            # A forked child must not use what its parent will.
            self._free, self._pid = deque(), os.getpid()
        try:
            return self._free.pop()
        except IndexError:
            drawn = os.urandom(16 * _AT_ONCE)
            starts = range(0, len(drawn), 16)
            self._free.extend(str(UUID(bytes=drawn[start : start + 16], version=4)) for start in starts)
            return self._free.pop()


task_ids = TaskIds()
